"""A byte-level tokenizer with a ChatML template, and a random target that reads it; nothing is fetched."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from evaluation.selfcheck.tiny import random_model

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB_SIZE = 258


def tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    """256 bytes, <|im_start|> = 256, <|im_end|> = 257: no merges, so pieces tokenise like the whole."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(text, normalized=False) for text in ("<|im_start|>", "<|im_end|>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>")
    fast.chat_template = template
    return fast


def target(config: PretrainedConfig | None = None, seed: int = 0) -> PreTrainedModel:
    return random_model(config or LlamaConfig(**shape()), seed)


def shape() -> dict:
    """Eight layers, three query heads a key-value head, and weights large enough for laws that are not flat."""
    return {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    }
