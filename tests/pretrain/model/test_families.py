"""Fine-tuning works with every family of models: prompts, layout, a short run, its export, and clear refusals.

A family is a random model of a few thousand parameters in a folder with a tokenizer whose special tokens and chat
template are in the family's style. Nothing below names a token's index.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from finetune import evaluate
from finetune.config import FinetuneConfig
from finetune.generate import generate
from finetune.prompts import Frame, make_frame
from finetune.training import FinetuneRun
from pretrain.commands import export
from pretrain.config.loading import load_config
from pretrain.config.model import ModelConfig, TokenizerConfig
from pretrain.data.branches import IGNORE, Branches, View
from pretrain.data.tokenizer import Tokenizer, load
from pretrain.engine.checks import check_with_libraries
from pretrain.model import loading
from pretrain.model.build import build_model, choose_attention, hf_config, model_problems
from pretrain.model.existing_weights import load_existing
from pretrain.objectives.mixed import make_branches
from pretrain.preparation.tokenizer_training import train
from pretrain.runtime.errors import DiptychError
from tests.support.branch_reference import Tree
from tests.support.custom_code_model import Fault, write_custom_model
from tests.support.ranks import run_ranks
from tests.support.trees import lay_out

ANIMALS = ("cat", "dog", "heron", "fox", "owl", "bee", "ant")
INSTRUCTION = "Say it twice."
TEXT, ANSWER = "number 12 is a heron here", "heron heron"
CONTEXT = 128

_TURNS = "{% for m in messages %}"
_END = "{% endfor %}"
LLAMA3 = (
    "{{ bos_token }}" + _TURNS + "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}" + _END + "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA2 = (
    "{{ bos_token }}" + _TURNS + "{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}" + _END + "{% if add_generation_prompt %}"
    "{{ '<start_of_turn>model\n' }}{% endif %}"
)
OLMO2 = (
    "{{ bos_token }}" + _TURNS + "{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' else '\n' }}" + _END + "{% if add_generation_prompt %}"
    "{{ '<|assistant|>\n' }}{% endif %}"
)
QWEN2 = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    + _TURNS
    + "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    + _END
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# An answer follows empty thoughts, whether it is there or to come.
QWEN3 = (
    _TURNS + "{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}" + _END + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class Family:
    """How a family's folder is made.

    Attributes:
        fields: Fields of its config besides the sizes that most families share; None: code of its own.
        template: Its chat template.
        bos: Its bos; None: it has none.
        eos: Its eos.
        stop: What ends an answer in its chat template.
        others: Its other special tokens.
    """

    fields: dict[str, Any] | None
    template: str | None
    bos: str | None
    eos: str
    stop: str | None = None
    others: tuple[str, ...] = ()


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,  # far from uniform, so that rounding does not decide
}
IM = ("<|im_start|>", "<|endoftext|>")
FAMILIES = {
    "llama": Family(
        SIZES,
        LLAMA3,
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "gemma2": Family(
        SIZES | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": CONTEXT},
        GEMMA2,
        "<bos>",
        "<eos>",
        "<end_of_turn>",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "olmo2": Family(SIZES, OLMO2, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
    "qwen2": Family(SIZES, QWEN2, None, "<|im_end|>", "<|im_end|>", IM),
    "qwen3": Family(SIZES | {"head_dim": 8}, QWEN3, None, "<|im_end|>", "<|im_end|>", IM),
    "gpt2": Family(
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "initializer_range": 0.2},
        None,
        "<|endoftext|>",
        "<|endoftext|>",
    ),
    "layered": Family(None, None, "<s>", "</s>"),
}
STYLES = [
    (name, style)
    for name, family in FAMILIES.items()
    for style in ("plain", "chat")
    if family.template or style == "plain"
]


@pytest.fixture(scope="module", autouse=True)
def own_code_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Code of models is copied here, not into the home folder."""
    import transformers.dynamic_module_utils as dynamic

    import pretrain.model.build

    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", folder)
        patch.setattr(dynamic, "HF_MODULES_CACHE", folder)
        patch.setattr(pretrain.model.build, "HF_MODULES_CACHE", folder)
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, own_code_folder: None) -> Path:
    """A folder with the model of every family, and the task's files."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("families")
    for name, count, start in (("train", 60, 0), ("validation", 10, 1000)):
        rows = [
            {"text": f"number {number} is a {animal} here", "code": f"{animal} {animal}"}
            for number in range(start, start + count)
            for animal in [ANIMALS[number * 5 % 7]]
        ]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [f"number {number} is a {ANIMALS[number % 7]} here: {INSTRUCTION}" for number in range(60)]
    trained = train(texts, TokenizerConfig(vocab_size=320, predictor_tokens=0))
    (root / "task.yaml").write_text("packing: {row_length: 256}\n")
    for name, family in FAMILIES.items():
        ids = save_tokenizer(trained, family, root / name)
        torch.manual_seed(0)
        if family.fields is None:
            write_custom_model(root / name, max_context_length=CONTEXT, initializer_range=0.2, **ids)
        else:
            config = AutoConfig.for_model(name, **family.fields, **ids)
            AutoModelForCausalLM.from_config(config).save_pretrained(root / name)
    return root


def save_tokenizer(trained: Tokenizer, family: Family, folder: Path) -> dict[str, int | None]:
    """Gives a trained tokenizer the special tokens and the chat template of a family; returns what its config says."""
    backend = trained.hf.backend_tokenizer.to_str()
    if family.fields is not None:  # whose special tokens have other names
        backend = backend.replace('"<s>"', '"<unused1>"').replace('"</s>"', '"<unused2>"')
    roles = {"eos_token": family.eos} | ({"bos_token": family.bos} if family.bos else {})
    hf = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(backend),
        **roles,
        extra_special_tokens=list(family.others),
        chat_template=family.template,
    )
    hf.save_pretrained(folder)
    return {
        "vocab_size": len(hf),
        "bos_token_id": hf.bos_token_id,
        "eos_token_id": hf.eos_token_id,
        "pad_token_id": None,
    }


def settings(root: Path, name: str, style: str, *more: str) -> list[str]:
    """Overrides of a short run that begins with a family's model."""
    own_code = ", trust_remote_code: true" if FAMILIES[name].fields is None else ""
    return [
        f"run.folder={root}/runs/{name}",
        f"data={{train: {root}/train.jsonl, validation: {root}/validation.jsonl, folder: {root}/data/{name}}}",
        f"model={{path: {root}/{name}{own_code}}}",
        f"task={{name: exact_match, style: {style}, settings: {{max_new_tokens: 6, instruction: {INSTRUCTION}}}}}",
        "tokenizer={predictor_tokens: 2}",
        "objective={lambda: 0.5, distance: cosine, predictors: 2}",
        "train={steps: 3, rows_per_step: 2, micro_batch_rows: 1}",
        "optimizer={lr: 1.0e-3, warmup_steps: 0}",
        "evaluation={every: 3, prompts: 2, new_tokens: 8}" if own_code else "evaluation={every: 3, prompts: 0}",
        "deepspeed.zero_stage=1",
        "logging.tensorboard=false",
        *more,
    ]


def config_of(root: Path, name: str, style: str, *more: str) -> FinetuneConfig:
    return load_config(root / "task.yaml", settings(root, name, style, *more), FinetuneConfig)


def laid_out(root: Path, name: str, style: str) -> tuple[Tokenizer, Frame, Branches]:
    """Tokenizer, frame and layout as a run makes them."""
    run = FinetuneRun.__new__(FinetuneRun)
    run.config = config_of(root, name, style)
    run.task = run.config.task.task()
    tokenizer = load(root / name, run.config.tokenizer)
    packing, objective = run.config.packing, run.config.objective
    plain = make_branches(packing, objective, eos=tokenizer.eos, bos=tokenizer.bos, predictors=tokenizer.predictors)
    branches = run.frame_pairs(plain, tokenizer)
    return tokenizer, run.frame, branches


# --- prompts and layout


@pytest.mark.parametrize(("name", "style"), STYLES)
def test_a_prompt_is_what_the_tokenizer_would_write(root: Path, name: str, style: str) -> None:
    family = FAMILIES[name]
    tokenizer, frame, _ = laid_out(root, name, style)
    text = tokenizer.encode_batch([TEXT])[0]
    prompt = frame.prompt(text)
    assert prompt.count(tokenizer.bos) == 1 and prompt[0] == tokenizer.bos
    assert tokenizer.hf(TEXT)["input_ids"] == [tokenizer.bos, *text]
    place = len(frame.lead)
    assert prompt[place : place + len(text)] == text
    assert tokenizer.hf.convert_ids_to_tokens(frame.stop[0]) == (family.stop if style == "chat" else family.eos)
    assert tokenizer.eos in frame.stop
    if style == "plain":
        assert prompt == [tokenizer.bos, *text, *tokenizer.encode_batch(["\n"])[0]]
        return
    whole = f"{INSTRUCTION}\n\n{TEXT}"
    messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": TEXT}]
    if name == "gemma2":
        messages = [{"role": "user", "content": whole}]
    written = tokenizer.hf.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    written = written if family.bos else tokenizer.hf.bos_token + written
    shown = tokenizer.hf.backend_tokenizer.decode(prompt, skip_special_tokens=False)
    assert "".join(shown.split()) == "".join(written.split())  # SentencePiece puts a space before each part


@pytest.mark.parametrize(("name", "style"), STYLES)
def test_labels_and_the_view_that_predicts(root: Path, name: str, style: str) -> None:
    tokenizer, frame, branches = laid_out(root, name, style)
    text, answer = tokenizer.encode_batch([TEXT, ANSWER])
    tree, spans = lay_out(branches, View(text), View(answer), branched=True)
    assert spans is not None
    sequence, labels = path_of(tree, 1)
    prompt = frame.prompt(text)
    assert sequence == [*prompt, *answer]
    assert labels == [*[IGNORE] * (len(prompt) - 1), *answer, frame.stop[0]]
    assert [label for label in tree.labels if label != IGNORE] == [*answer, frame.stop[0]]

    source, prediction, target = (
        tree.ids[span.start : span.stop] for span in (spans.source, spans.prediction, spans.target)
    )
    assert (source, prediction, target) == (text, list(tokenizer.predictors), answer)
    own = tree.segments[spans.source.start]
    assert (own == 0) == (len(frame.lead) == 1)
    assert path_of(tree, own)[0] == [tokenizer.bos, *text]
    assert path_of(tree, tree.segments[spans.prediction.start])[0] == [tokenizer.bos, *text, *tokenizer.predictors]
    assert path_of(tree, tree.segments[spans.target.start])[0] == [tokenizer.bos, *answer]


def path_of(tree: Tree, segment: int) -> tuple[list[int], list[int]]:
    """Ids and labels from the root to the end of a branch; its positions count from 0."""
    parent = tree.parents[tree.segments.index(segment)]
    places = [place for place, found in enumerate(tree.segments) if found in (parent, segment)]
    assert [tree.positions[place] for place in places] == list(range(len(places)))
    return [tree.ids[place] for place in places], [tree.labels[place] for place in places]


# --- runs

ALL_RUNS = """
import json, shutil, sys
from pathlib import Path
from finetune.config import FinetuneConfig
from finetune.training import finetune
from pretrain.runtime.command import exit_rank, run_command
from pretrain.config.loading import load_config
from pretrain.runtime.distributed import start_ranks

def main(argv):
    ranks = start_ranks(5)
    for name, settings in json.loads(Path(argv[0]).read_text()).items():
        print(f"=== {name}", flush=True)
        finetune(load_config(Path(argv[1], "task.yaml"), settings, FinetuneConfig), ranks)
    print("=== layered again", flush=True)
    export = Path(argv[1], "runs", "layered", "export")
    shutil.move(export, export.with_name("first"))
    finetune(load_config(Path(argv[1], "task.yaml"), settings, FinetuneConfig), ranks)
    return 0

exit_rank(run_command(main))
"""


@pytest.fixture(scope="module")
def output(root: Path) -> str:
    """What short runs of all families print, of the last one twice: it goes on from its checkpoint."""
    plan = {name: settings(root, name, style) for name, style in STYLES}  # chat where there is a template
    assert list(plan)[-1] == "layered"
    (root / "plan.json").write_text(json.dumps(plan))
    (root / "all_runs.py").write_text(ALL_RUNS)
    environment = {"HF_MODULES_CACHE": os.environ["HF_MODULES_CACHE"]}
    return run_ranks(root / "all_runs.py", 1, root / "plan.json", root, timeout=240, env=environment)[0].output


@pytest.mark.ranks
@pytest.mark.parametrize("name", FAMILIES)
def test_a_short_run_and_its_export(root: Path, output: str, name: str) -> None:
    run = root / "runs" / name
    trusted = FAMILIES[name].fields is None
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("train/pair_loss" in row for row in rows) and max(row["step"] for row in rows) == 3
    before, after = load_file(root / name / "model.safetensors"), load_file(run / "export" / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(after[key][: len(before[key])], before[key]) for key in before)

    loaded = loading.load_model(
        loading.find_model(str(run / "export"), trust_remote_code=trusted),
        None,
        dtype="float32",
        device=torch.device("cpu"),
        trust_remote_code=trusted,
    )
    assert loaded.notes == () and loaded.bos
    tokenizer, lm = loaded.tokenizer, loaded.lm
    style = "chat" if FAMILIES[name].template else "plain"
    task = config_of(root, name, style).task.task()
    frame = make_frame(tokenizer, style, task)
    assert frame == laid_out(root, name, style)[1]
    prompts = [frame.prompt(ids) for ids in tokenizer.encode_batch([TEXT, "a bee", "number 3 is a fox here, is it?"])]
    answers = generate(lm, prompts, stop=frame.stop, pad=tokenizer.pad, max_new_tokens=8, batch_size=3)
    assert [answer.ids for answer in answers] == [
        one_by_one(lm, prompt, frame.stop, tokenizer.pad) for prompt in prompts
    ]


@pytest.mark.ranks
def test_samples_of_own_code_are_what_whole_passes_give(root: Path, output: str) -> None:
    run = root / "runs" / "layered"
    lm = AutoModelForCausalLM.from_pretrained(run / "export", trust_remote_code=True).eval()
    tokenizer = load(run / "export", TokenizerConfig(predictor_tokens=0))
    *_, first, second = (run / "samples.txt").read_text().splitlines()
    for line, text in ((first, "number 1000 is a heron here"), (second, "number 1001 is a cat here")):
        prompt = [tokenizer.bos, *tokenizer.encode_batch([text])[0]]
        assert line == f"[{text}] {tokenizer.decode(one_by_one(lm, prompt, [tokenizer.eos], tokenizer.pad))}"


def one_by_one(lm: Any, prompt: Sequence[int], stop: Sequence[int], pad: int) -> tuple[int, ...]:
    """Without a cache: ``generate`` names it as the installed transformers does, which code of its own may not know."""
    ids = torch.tensor([prompt])
    new = lm.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=8,
        eos_token_id=list(stop),
        pad_token_id=pad,
        use_cache=False,
    )
    found = new[0, len(prompt) :].tolist()
    return tuple(found[:-1] if found[-1] in stop else found)


@pytest.mark.ranks
def test_own_code_resumes_and_is_exported_with_its_code(root: Path, output: str, tmp_path: Path) -> None:
    run = root / "runs" / "layered"
    again = output.split("=== layered again")[1]
    assert "resumed from" in again
    first, second = (load_file(run / name / "model.safetensors") for name in ("first", "export"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    for file in ("modeling_layered.py", "configuration_layered.py"):
        assert (run / "export" / file).read_text() == (root / "layered" / file).read_text()
    assert "trust_remote_code=True" in (run / "export" / "README.md").read_text()
    card = (root / "runs" / "llama" / "export" / "README.md").read_text()
    assert "trust_remote_code" not in card
    assert "Transformers 4.57 opens it as well if it knows the type `llama`" in card
    config = json.loads((root / "runs" / "llama" / "export" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]

    with pytest.raises(DiptychError, match=r"runs the Python code of .*layered; give --trust-remote-code"):
        export.main([str(run), str(tmp_path / "out")])
    assert export.main([str(run), str(tmp_path / "out"), "--trust-remote-code"]) == 0
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == second.keys()

    arguments = [str(run / "export"), "--data", str(root / "validation.jsonl"), "--out", str(tmp_path / "answers")]
    with pytest.raises(DiptychError, match="Python code of its own; give --trust-remote-code"):
        evaluate.main(arguments)
    evaluate.main([*arguments, "--trust-remote-code"])
    assert len((tmp_path / "answers" / "generations.jsonl").read_text().splitlines()) == 10


@pytest.mark.ranks
def test_added_tokens_are_told(root: Path, output: str) -> None:
    """The tokenizers lack the predictors, Qwen's a bos: they are added, and the run says so."""
    told = {part.split()[0]: part for part in output.split("=== ")[1:]}
    assert "note: the tokenizer had no <s> [PRED_1] [PRED_2]: added, with embeddings" in told["qwen2"]
    assert "note: the tokenizer had no [PRED_1] [PRED_2]: added, with embeddings" in told["layered"]


# --- refusals


def ready(folder: Path, **tokens: Any) -> Any:
    """Builds the model of a folder with code of its own as a run does, with a larger vocabulary."""
    config = ModelConfig(path=str(folder), trust_remote_code=True)
    found = hf_config(config, vocab_size=333, bos=1, eos=2, pad=0, positions=64)
    attention = choose_attention(config, found, "cuda")
    assert attention == "sdpa"
    lm = build_model(found, seed=0, zero3_config=None, dtype=torch.float32, attention=attention)
    load_existing(lm, str(folder), trust_remote_code=True)
    return lm


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("positions", "its code ignores position_ids, so texts packed into one row"),
        ("mask", "its code ignores a 4-D attention_mask, so texts packed into one row"),
        ("head", "no separate base model and linear head"),
        ("version", "cannot be opened as a Hugging Face model: .*is its code for another version of transformers"),
    ],
)
def test_code_that_does_not_follow_the_layout_is_refused(tmp_path: Path, fault: Fault, message: str) -> None:
    with pytest.raises(DiptychError, match=message):
        ready(write_custom_model(tmp_path / fault, fault))


def test_new_rows_of_own_code_are_as_wide_as_the_old(tmp_path: Path) -> None:
    """Its own first values are never used: those of older code cannot be drawn here."""
    lm = ready(write_custom_model(tmp_path / "init", "init", initializer_range=0.3))
    old = load_file(tmp_path / "init" / "model.safetensors")["transformer.token_embeddings.weight"]
    rows = lm.get_input_embeddings().weight.detach()
    assert torch.equal(rows[:320], old)
    assert float(rows[320:].std() / old.std()) == pytest.approx(1, abs=0.15)


def test_code_runs_only_with_permission(root: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(root / "layered", tmp_path / "model")
    for file in folder.glob("*.py"):
        file.write_text(f"raise SystemExit('{file.name} ran')\n")
    message = r"model\.path: .*model: is Python code of its own; set model\.trust_remote_code=true"
    with pytest.raises(DiptychError, match=message):
        check_with_libraries(config_of(root, "layered", "plain", f"model={{path: {folder}}}"))
    with pytest.raises(DiptychError, match=message):
        hf_config(ModelConfig(path=str(folder)), vocab_size=330, bos=1, eos=2, pad=0, positions=8)
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]["AutoConfig"]
    (folder / "config.json").write_text(json.dumps(config))
    problem = model_problems(ModelConfig(path=str(folder), trust_remote_code=True))
    assert "brings code for AutoModelForCausalLM alone" in problem[0]


def test_folders_without_usable_weights(root: Path, tmp_path: Path) -> None:
    def refused(**more: Any) -> str:
        (problem,) = model_problems(ModelConfig(path=str(folder), **more))
        return problem

    folder = shutil.copytree(root / "llama", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    assert refused().endswith("model: holds no safetensors weights")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DiptychError, match=r"has no model\.layers\.1\.mlp\.up_proj\.weight \(1 of \d+ weights"):
        load_existing(AutoModelForCausalLM.from_pretrained(root / "llama"), str(folder))
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "only pickled ones, which can run code: convert them, or set model.trust_remote_code=true" in refused()
    assert model_problems(ModelConfig(path=str(folder), trust_remote_code=True)) == []
    (folder / "config.json").unlink()
    assert "is no Hugging Face model (no config.json)" in refused()


def test_a_context_shorter_than_the_examples(root: Path) -> None:
    for name in ("llama", "gpt2", "layered"):
        config = ModelConfig(path=str(root / name), trust_remote_code=name == "layered")
        with pytest.raises(
            DiptychError, match=rf"has {CONTEXT} positions, but the longest example needs {CONTEXT + 1}"
        ):
            hf_config(config, vocab_size=330, bos=1, eos=2, pad=0, positions=CONTEXT + 1)
