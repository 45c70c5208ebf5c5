import re

import pytest
from trl import TrlParser

from trl_modality import ModalityBalancedSFTConfig
from trl_modality.parts.words import parts_of_option


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, None),
        ("language_model", ["language_model"]),
        ("language_model, projector", ["language_model", "projector"]),
        (["language_model,", "projector"], ["language_model", "projector"]),
        (['{"attention": 1e-5}'], {"attention": 1e-5}),
        ('["attention", 0.25]', ["attention", "0.25"]),
        ('{"language_model": 1e-5, "vision_tower": 0}', {"language_model": 1e-5, "vision_tower": 0.0}),
        (0.25, ["0.25"]),
        ([0.25, "last_n_layers = 8", "0.25"], ["0.25", "last_n_layers=8"]),
        (("norms", "1"), ["norms", "1.0"]),
        ({"language_model": "1e-5", 0.5: 2e-5}, {"language_model": 1e-5, "0.5": 2e-5}),  # YAML reads 1e-5 as a word
    ],
)
def test_forms(given, found):
    assert parts_of_option("train_parts", given) == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vision", "names 'vision', which is no part. The parts are: vision_tower, audio_tower, projector"),
        ("lm-head", "Did you mean 'lm_head'?"),
        (["last_n_layers"], "Did you mean 'last_n_layers=8'?"),
        ({"0.5": 1e-5, "0.50": 2e-5}, "gives '0.5' two learning rates: {'0.5': 1e-05, '0.50': 2e-05}"),
        ({"attention": 1e-5, " attention": 2e-5}, "gives 'attention' two learning rates"),
        (["last_n_layers=0"], "names 'last_n_layers=0', which is no part"),
        ([0.0], "names 0.0, which is no part"),
        (1.5, "names 1.5, which is no part"),
        (True, "names True, which is no part"),
        ([], "is an empty list; name a part"),
        ("", "is an empty list; name a part"),
        ({"attention": 0}, "trains nothing: {'attention': 0}"),
        ({"attention": -1e-5}, "finite learning rate ≥ 0 for each part, got -1e-05 for 'attention'"),
        ({"attention": "fast"}, "got 'fast' for 'attention'"),
        ({"attention": True}, "got True for 'attention'"),
        ({"attention": float("nan")}, "got nan for 'attention'"),
        ('{"attention": 1e-5', "is not JSON"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parts_of_option("train_parts", given)


def test_options_of_the_config(config):
    args = config(train_parts='{"projector": 1e-4}', lora_parts="attention,gate_up")
    assert (args.train_parts, args.lora_parts) == ({"projector": 1e-4}, ["attention", "gate_up"])
    with pytest.raises(ValueError, match="`lora_parts` names 'lm_head', whose adapter would never be trained"):
        config(lora_parts=["lm_head"])
    with pytest.raises(ValueError, match="`lora_parts` must be a list of parts"):
        config(lora_parts={"attention": 1e-5})


@pytest.mark.parametrize(("schedule", "floor"), [("cosine_with_min_lr", "min_lr"), ("polynomial", "lr_end")])
def test_a_floor_of_one_rate_is_refused(config, schedule, floor):
    options = {"lr_scheduler_type": schedule, "lr_scheduler_kwargs": {floor: 1e-6}}
    with pytest.raises(ValueError, match=f"`lr_scheduler_kwargs` has '{floor}'.* `min_lr_rate`"):
        config(train_parts={"attention": 1e-5}, **options)
    config(train_parts=["attention"], **options)


@pytest.mark.parametrize("name", ["train_parts", "lora_parts"])
@pytest.mark.parametrize(
    "given", [["attention", "0.5"], ["attention,0.5"], ["attention,", "0.5"], ['["attention", 0.5]']]
)
def test_a_command_line(tmp_path, name, given):
    base = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"]
    (args,) = TrlParser((ModalityBalancedSFTConfig,)).parse_args_and_config([*base, f"--{name}", *given])
    assert getattr(args, name) == ["attention", "0.5"]
