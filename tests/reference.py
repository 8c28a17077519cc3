"""Tiny random models of transformers: what test_model and test_weights compare with.

Each function returns (reference, our config). Norm weights, biases and sinks are random too, so
that none of them can be forgotten unseen.
"""

import math

import torch
import transformers as tf

from helpers.config import Latent, ModelConfig, MoE, Rope

V, T = 97, 24
SIZES = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}
OURS = {
    "vocab_size": V,
    "context_length": 64,
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 16,
    "d_ff": 48,
}
STRETCHED = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def randomised(model, std, seed=1):
    """The model with matrices of this scale; vectors far from the 1 or 0 they begin with."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            plain_vector = p.dim() == 1 or name.endswith("_bias")
            p.copy_(torch.randn(p.shape, generator=draw) * (0.3 if plain_vector else std))
            one_plus = type(model).__name__.startswith("Gemma")
            if plain_vector and "norm" in name.replace("ln_", "norm") and "weight" in name:
                p.add_(0.0 if one_plus else 1.0)
        for name, buffer in model.named_buffers():
            if name.endswith("correction_bias"):  # often below 0: barred experts must stay out
                buffer.copy_(torch.randn(buffer.shape, generator=draw) - 1)
    return model.eval()


# ---------------------------------------------------------------- families


def gpt2(std):
    shape = {"vocab_size": V, "n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 4}
    theirs = tf.GPT2Config(**shape, attn_implementation="eager")
    reference = randomised(tf.GPT2LMHeadModel(theirs), std)
    cfg = ModelConfig(
        **OURS | {"n_kv_heads": 4, "head_dim": 8, "d_ff": 128, "n_layers": 3},
        norm="layer",
        mlp="gelu",
        bias=True,
        rope=None,
        learned_positions=True,
        tie_embeddings=True,
    )
    return reference, cfg


def llama(std, ours, **theirs):
    theirs = tf.LlamaConfig(**SIZES, num_hidden_layers=3, **theirs)
    reference = randomised(tf.LlamaForCausalLM(theirs), std)
    cfg = ModelConfig(**OURS, n_layers=3, **ours)
    return reference, cfg


def llama2(std):
    return llama(std, {"norm_eps": 1e-5}, rms_norm_eps=1e-5)


def llama3(std):
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    return llama(std, {"rope": Rope(theta=500_000.0)}, rms_norm_eps=1e-5, rope_parameters=rope)


LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500_000.0, **STRETCHED}
LLAMA3_ROPE["original_max_position_embeddings"] = 16
OUR_LLAMA3_ROPE = Rope(theta=500_000.0, scaling="by_wavelength", original_context=16, **STRETCHED)


def llama3_1(std):
    ours = {"rope": OUR_LLAMA3_ROPE}
    return llama(std, ours, rms_norm_eps=1e-5, rope_parameters=LLAMA3_ROPE)


def gemma2(std):
    theirs = tf.Gemma2Config(
        **SIZES,
        num_hidden_layers=4,
        query_pre_attn_scalar=24,
        sliding_window=5,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    )
    reference = randomised(tf.Gemma2ForCausalLM(theirs), std)
    cfg = ModelConfig(
        **OURS,
        n_layers=4,
        norm_eps=1e-6,
        post_norms=True,
        mlp="geglu",
        attn_scale=24**-0.5,
        attn_softcap=2.0,
        logit_softcap=3.0,
        pattern="WG",
        window=5,
        tie_embeddings=True,
        embed_scale=32**0.5,
    )
    return reference, cfg


def gemma3(std):
    ropes = {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    theirs = tf.Gemma3TextConfig(
        **SIZES,
        num_hidden_layers=6,
        query_pre_attn_scalar=24,
        sliding_window=5,
        rope_parameters=ropes,
    )
    reference = randomised(tf.Gemma3ForCausalLM(theirs), std)
    cfg = ModelConfig(
        **OURS,
        n_layers=6,
        norm_eps=1e-6,
        post_norms=True,
        mlp="geglu",
        attn_scale=24**-0.5,
        qk_norm="rms",
        pattern="WWWWWG",
        window=5,
        rope=Rope(theta=1e6, scaling="linear", factor=8.0),
        local_rope=Rope(theta=1e4),
        tie_embeddings=True,
        embed_scale=32**0.5,
    )
    return reference, cfg


QWEN3 = {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
OUR_QWEN3 = {"norm_eps": 1e-6, "qk_norm": "rms", "rope": Rope(theta=1e6)}


def qwen3(std):
    theirs = tf.Qwen3Config(**SIZES, **QWEN3, num_hidden_layers=3)
    reference = randomised(tf.Qwen3ForCausalLM(theirs), std)
    return reference, ModelConfig(**OURS, n_layers=3, **OUR_QWEN3)


def qwen3_moe(std):
    theirs = tf.Qwen3MoeConfig(
        **SIZES,
        **QWEN3,
        num_hidden_layers=2,
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=24,
        norm_topk_prob=True,
    )
    reference = randomised(tf.Qwen3MoeForCausalLM(theirs), std)
    moe = MoE(n_experts=8, n_active=3, d_ff=24)
    cfg = ModelConfig(**OURS, **OUR_QWEN3, n_layers=2, moe=moe, ffn_pattern="m")
    return reference, cfg


def gpt_oss(std):
    yarn = {"rope_type": "yarn", "rope_theta": 150_000.0, "factor": 32.0, "truncate": False}
    yarn |= {"beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 4096}
    theirs = tf.GptOssConfig(
        **SIZES,
        num_hidden_layers=4,
        num_local_experts=6,
        num_experts_per_tok=2,
        sliding_window=5,
        rope_parameters=yarn,
    )
    reference = randomised(tf.GptOssForCausalLM(theirs), std)
    rope = Rope(
        theta=150_000.0,
        scaling="yarn",
        factor=32.0,
        original_context=4096,
        truncate=False,
        mscale=0.1 * math.log(32) + 1,
    )
    cfg = ModelConfig(
        **OURS,
        n_layers=4,
        mlp="clamped_swiglu",
        bias=True,
        sinks=True,
        pattern="WG",
        window=5,
        rope=rope,
        moe=MoE(n_experts=6, n_active=2, d_ff=48, bias=True),
        ffn_pattern="m",
    )
    return reference, cfg


def deepseek_v3(std):
    yarn = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 40.0, "mscale": 1.0}
    yarn |= {"beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0}
    sizes = SIZES | {"num_key_value_heads": 4}
    del sizes["head_dim"]
    theirs = tf.DeepseekV3Config(
        **sizes,
        num_hidden_layers=3,
        moe_intermediate_size=24,
        n_shared_experts=1,
        n_routed_experts=8,
        routed_scaling_factor=2.5,
        kv_lora_rank=12,
        q_lora_rank=20,
        qk_rope_head_dim=8,
        v_head_dim=10,
        qk_nope_head_dim=6,
        n_group=4,
        topk_group=2,
        num_experts_per_tok=3,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        rope_parameters=yarn | {"original_max_position_embeddings": 4096},
    )
    reference = randomised(tf.DeepseekV3ForCausalLM(theirs), std)
    moe = MoE(
        n_experts=8,
        n_active=3,
        d_ff=24,
        router="grouped_sigmoid",
        steered=True,
        n_shared=1,
        n_groups=4,
        n_active_groups=2,
        route_scale=2.5,
    )
    cfg = ModelConfig(
        **OURS | {"n_kv_heads": 4, "head_dim": 10},
        n_layers=3,
        norm_eps=1e-6,
        attn_scale=14**-0.5 * (0.1 * math.log(40) + 1) ** 2,
        latent=Latent(q_rank=20, kv_rank=12, nope_dim=6, rope_dim=8, v_dim=10),
        rope=Rope(theta=10_000.0, scaling="yarn", factor=40.0, original_context=4096),
        moe=moe,
        ffn_pattern="m",
        n_dense_first=1,
    )
    return reference, cfg


def llama4(std):
    theirs = tf.Llama4TextConfig(
        **SIZES | {"intermediate_size": 24},
        intermediate_size_mlp=48,
        num_hidden_layers=4,
        num_local_experts=4,
        num_experts_per_tok=1,
        interleave_moe_layer_step=2,
        use_qk_norm=True,
        attention_chunk_size=7,
        floor_scale=8,
        attn_scale=0.1,
        attn_temperature_tuning=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        rope_parameters=LLAMA3_ROPE,
    )
    reference = randomised(tf.Llama4ForCausalLM(theirs), std)
    moe = MoE(n_experts=4, n_active=1, d_ff=24, router="topk_sigmoid", n_shared=1, scale_input=True)
    cfg = ModelConfig(
        **OURS,
        n_layers=4,
        qk_norm="rms_unweighted",
        nope_qk_norm="none",
        pattern="CCCN",
        window=7,
        rope=OUR_LLAMA3_ROPE,
        nope_temperature=(8.0, 0.1),
        moe=moe,
        ffn_pattern="dm",
    )
    return reference, cfg


# Seven that are not in the catalogue: a config and a table of names were enough.

PLAIN = {name: size for name, size in SIZES.items() if name != "head_dim"}
OUR_PLAIN = OURS | {"head_dim": 8}


def qwen2(std):
    theirs = tf.Qwen2Config(**PLAIN, num_hidden_layers=2, rms_norm_eps=1e-6)
    reference = randomised(tf.Qwen2ForCausalLM(theirs), std)
    cfg = ModelConfig(**OUR_PLAIN, n_layers=2, norm_eps=1e-6, qkv_bias=True)
    return reference, cfg


def olmo2(std):
    theirs = tf.Olmo2Config(**PLAIN, num_hidden_layers=2, rms_norm_eps=1e-5)
    reference = randomised(tf.Olmo2ForCausalLM(theirs), std)
    norms = {"pre_norms": False, "post_norms": True, "qk_norm": "rms_all_heads"}
    cfg = ModelConfig(**OUR_PLAIN, n_layers=2, **norms)
    return reference, cfg


HALF_TURNING = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}


def stablelm(std):
    theirs = tf.StableLmConfig(
        **PLAIN, num_hidden_layers=2, layer_norm_eps=1e-5, rope_parameters=HALF_TURNING
    )
    reference = randomised(tf.StableLmForCausalLM(theirs), std)
    cfg = ModelConfig(**OUR_PLAIN, n_layers=2, norm="layer", rope=Rope(fraction=0.5))
    return reference, cfg


def deepseek_v2(std):
    theirs = tf.DeepseekV2Config(
        **PLAIN | {"num_key_value_heads": 4},
        num_hidden_layers=3,
        moe_intermediate_size=24,
        n_shared_experts=2,
        n_routed_experts=8,
        routed_scaling_factor=3.0,
        kv_lora_rank=12,
        q_lora_rank=None,
        qk_rope_head_dim=8,
        v_head_dim=10,
        qk_nope_head_dim=6,
        n_group=4,
        topk_group=2,
        topk_method="group_limited_greedy",
        num_experts_per_tok=3,
        first_k_dense_replace=1,
    )
    reference = randomised(tf.DeepseekV2ForCausalLM(theirs), std)
    moe = MoE(
        n_experts=8,
        n_active=3,
        d_ff=24,
        router="grouped_softmax",
        n_shared=2,
        n_groups=4,
        n_active_groups=2,
        route_scale=3.0,
    )
    cfg = ModelConfig(
        **OURS | {"n_kv_heads": 4, "head_dim": 10},
        n_layers=3,
        norm_eps=1e-6,
        latent=Latent(kv_rank=12, nope_dim=6, rope_dim=8, v_dim=10),
        moe=moe,
        ffn_pattern="m",
        n_dense_first=1,
    )
    return reference, cfg


def mistral(std):
    theirs = tf.MistralConfig(**SIZES, num_hidden_layers=2, sliding_window=5, rms_norm_eps=1e-5)
    reference = randomised(tf.MistralForCausalLM(theirs), std)
    return reference, ModelConfig(**OURS, n_layers=2, pattern="W", window=5)


def mixtral(std):
    theirs = tf.MixtralConfig(
        **PLAIN,
        num_hidden_layers=2,
        num_local_experts=6,
        num_experts_per_tok=2,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    reference = randomised(tf.MixtralForCausalLM(theirs), std)
    moe = MoE(n_experts=6, n_active=2, d_ff=48)
    cfg = ModelConfig(**OUR_PLAIN, n_layers=2, rope=Rope(theta=1e6), moe=moe, ffn_pattern="m")
    return reference, cfg


def phi3(std):
    theirs = tf.Phi3Config(**PLAIN, num_hidden_layers=2, sliding_window=5, pad_token_id=None)
    reference = randomised(tf.Phi3ForCausalLM(theirs), std)
    return reference, ModelConfig(**OUR_PLAIN, n_layers=2, pattern="W", window=5)


FAMILIES = {
    family.__name__: family
    for family in (
        *(gpt2, llama2, llama3, llama3_1, gemma2, gemma3),
        *(qwen3, qwen3_moe, gpt_oss, deepseek_v3, llama4),
        *(qwen2, olmo2, stablelm, deepseek_v2, mistral, mixtral, phi3),
    )
}
