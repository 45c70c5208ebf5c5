"""What the tiny models of all families have in common: tokenizers, templates, sizes."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


IMAGE = "<image>"
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES = {"image_size": 16, "patch_size": 4}
SQUARE = {"height": 16, "width": 16}


def tokenizer_of(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """Bytes, the special tokens of the family, and those that its processor asks the tokenizer for by name."""
    backend = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<pad>", "<s>", "<end>", "<user>", "<assistant>", *special, *named.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<end>",
        extra_special_tokens=named,
        padding_side="left",
    )


def template(image: str = IMAGE, start: str = "") -> str:
    """Turns `<user>…<end>`; an image part becomes what the family writes for it."""
    return (
        "{{ '" + start + "' }}{% for message in messages %}{{ '<' + message['role'] + '>' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{{ '" + image + "' if part['type'] == 'image' else part['text'] }}{% endfor %}"
        "{% endif %}{{ '<end>' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
    )


def text_sizes(tokenizer, **changes) -> dict:
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return {**sizes, **changes}
