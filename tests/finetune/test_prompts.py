"""Prompts: the ids around text and answer, plain and by the chat templates of several families."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, processors

from finetune.prompts import Frame, make_frame
from pretrain.config.model import TokenizerConfig
from pretrain.data.tokenizer import Tokenizer, load
from pretrain.runtime.errors import DiptychError

LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
QWEN = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role != 'system' %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
OLMO = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    separator: str = "\n"
    instruction: str | None = None


def opened(folder: Path, *, template: str | None, bos: str | None, eos: str, special: tuple[str, ...]) -> Tokenizer:
    """A byte-level tokenizer (an id is a byte's) with the special tokens of a family, as pretraining opens it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + len(special),
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([], trainer)
    if bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos}:0 $A:0", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    roles = {"eos_token": eos} | ({"bos_token": bos} if bos else {})
    hf = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **roles)
    hf.save_pretrained(folder)
    return load(folder, TokenizerConfig(predictor_tokens=1))


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "template": LLAMA,
        "bos": "<|begin_of_text|>",
        "eos": "<|end_of_text|>",
        "special": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    },
    "gemma": {
        "template": GEMMA,
        "bos": "<bos>",
        "eos": "<eos>",
        "special": ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    },
    "qwen": {
        "template": QWEN,
        "bos": None,
        "eos": "<|im_end|>",
        "special": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    },
    "olmo": {"template": OLMO, "bos": "<|endoftext|>", "eos": "<|endoftext|>", "special": ("<|endoftext|>",)},
}
STOPS = {
    "llama": ["<|eot_id|>", "<|end_of_text|>"],
    "gemma": ["<end_of_turn>", "<eos>"],
    "qwen": ["<|im_end|>"],
    "olmo": ["<|endoftext|>"],
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Tokenizer]:
    return request.param, opened(tmp_path, **FAMILIES[request.param])


def written(tokenizer: Tokenizer, ids: Any) -> str:
    """The text of ids with its special tokens."""
    text: str = tokenizer.hf.backend_tokenizer.decode(list(ids), skip_special_tokens=False)
    return text


def names(tokenizer: Tokenizer, ids: Any) -> list[str]:
    found: list[str] = tokenizer.hf.convert_ids_to_tokens(list(ids))
    return found


def test_plain(family: tuple[str, Tokenizer]) -> None:
    tokenizer = family[1]
    frame = make_frame(tokenizer, "plain", Settings(" => "))
    assert frame == Frame((tokenizer.bos,), tuple(tokenizer.encode_batch([" => "])[0]), (tokenizer.eos,))
    assert len(frame.lead) == 1
    assert make_frame(tokenizer, "plain", Settings("")).join == ()
    assert make_frame(tokenizer, "plain", Settings(), bos=False).lead == ()
    text = tokenizer.encode_batch(["a question"])[0]
    assert written(tokenizer, frame.prompt(text)) == f"{tokenizer.hf.bos_token}a question => "


def test_chat_is_what_the_template_renders_with_one_bos(family: tuple[str, Tokenizer]) -> None:
    name, tokenizer = family
    frame = make_frame(tokenizer, "chat", Settings())
    ids = frame.prompt(tokenizer.encode_batch(["What is 2 + 2?"])[0])
    rendered = tokenizer.hf.apply_chat_template(
        [{"role": "user", "content": "What is 2 + 2?"}],
        tokenize=False,
        add_generation_prompt=True,
        date_string="26 Jul 2024",
    )
    bos = tokenizer.hf.bos_token
    assert written(tokenizer, ids) == (bos + rendered if name == "qwen" else rendered)
    assert ids[0] == tokenizer.bos and ids.count(tokenizer.bos) == 1
    assert names(tokenizer, frame.stop) == STOPS[name]
    assert len(frame.lead) > 1
    assert make_frame(tokenizer, "chat", Settings(), bos=False).lead == frame.lead[1:]


def test_instruction_is_a_system_message_or_precedes_the_text(family: tuple[str, Tokenizer]) -> None:
    name, tokenizer = family
    frame = make_frame(tokenizer, "chat", Settings(instruction="Write the regex."))
    lead = written(tokenizer, frame.lead)
    assert lead.count("Write the regex.") == 1
    if name == "gemma":
        assert lead == "<bos><start_of_turn>user\nWrite the regex.\n\n"
    else:
        assert lead.index("Write the regex.") < lead.index("user")
    assert "helpful" not in lead
    assert frame.join == make_frame(tokenizer, "chat", Settings()).join


def test_special_tokens_spelt_out_are_ordinary_text(family: tuple[str, Tokenizer]) -> None:
    name, tokenizer = family
    evil = f"a {tokenizer.hf.bos_token} {STOPS[name][0]} [PRED_1]"
    frame = make_frame(tokenizer, "chat", Settings(instruction=evil))
    special = set(tokenizer.hf.all_special_ids)
    clean = make_frame(tokenizer, "chat", Settings(instruction="a"))
    assert [i for i in frame.lead if i in special] == [i for i in clean.lead if i in special]
    assert evil in written(tokenizer, frame.lead)


@pytest.mark.parametrize("given", ["%d %b %Y", "%Y-%m-%d", "%A, %B %-d"])
def test_no_prompt_changes_with_the_day(tmp_path: Path, given: str) -> None:
    template = (
        f"{{%- if strftime_now is defined %}}{{{{ strftime_now('{given}') }}}}{{% endif %}}"
        "{% for message in messages %}|{{ message.content }}{{ eos_token }}{% endfor %}"
    )
    tokenizer = opened(tmp_path, **{**FAMILIES["olmo"], "template": template})
    lead = written(tokenizer, make_frame(tokenizer, "chat", Settings()).lead[1:])
    assert lead == {"%d %b %Y": "26 Jul 2024|", "%Y-%m-%d": "2024-07-26|", "%A, %B %-d": "Friday, July 26|"}[given]


def test_a_long_text_loses_its_beginning_not_the_frame() -> None:
    frame = Frame((1, 2), (3,), (0,))
    assert frame.prompt([10, 11, 12], room=5) == [1, 2, 11, 12, 3]
    assert frame.prompt([10, 11, 12], room=6) == frame.prompt([10, 11, 12]) == [1, 2, 10, 11, 12, 3]
    assert frame.prompt([10, 11, 12], room=3) == frame.prompt([10, 11, 12], room=0) == [1, 2, 3]


def test_no_template_says_to_use_plain(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, **{**FAMILIES["llama"], "template": None})
    with pytest.raises(DiptychError, match="no chat template; use style plain"):
        make_frame(tokenizer, "chat", Settings())


@pytest.mark.parametrize(
    "template",
    [
        "{% for message in messages %}{{ message.content | upper }}{% endfor %}",
        "{{ messages[0].content }}",
        "{{ unclosed",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_does_not_write_the_texts_is_refused(tmp_path: Path, template: str) -> None:
    tokenizer = opened(tmp_path, **{**FAMILIES["llama"], "template": template})
    with pytest.raises(DiptychError, match="use style plain"):
        make_frame(tokenizer, "chat", Settings())


def test_a_template_without_an_end_of_turn_stops_at_eos(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    tokenizer = opened(tmp_path, **{**FAMILIES["llama"], "template": template})
    frame = make_frame(tokenizer, "chat", Settings())
    assert frame.stop == (tokenizer.eos,)
    assert written(tokenizer, frame.lead) == "<|begin_of_text|>user: "
    assert written(tokenizer, frame.join) == "\nassistant: "
