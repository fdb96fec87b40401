"""A tokenizer of made-up words for tiny targets: `w7` is token 7."""


class WordTokenizer:
    """What the runner asks of a tokenizer, for a vocabulary of 97."""

    chat_template = "words"
    eos_token_id = bos_token_id = None
    all_special_ids: tuple[int, ...] = ()

    @property
    def added_tokens_decoder(self) -> dict:
        return {}

    def apply_chat_template(self, messages, add_generation_prompt: bool, tokenize: bool) -> str:
        assert not tokenize
        return " ".join(f"<{message['role']}> {message['content']}" for message in messages)

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [_id(word) for word in text.split()]}

    def decode(self, ids, skip_special_tokens: bool) -> str:
        return " ".join(f"w{token}" for token in ids)


def _id(word: str) -> int:
    return int(word[1:]) if word[1:].isdigit() else sum(map(ord, word)) % 97
