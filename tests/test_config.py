import re
from dataclasses import fields

import pytest
from trl import SFTConfig, TrlParser

from trl_modality import ModalityBalancedSFTConfig
from trl_modality.curriculum import Mix, get_schedule
from trl_modality.distillation.config import DistillationConfig
from trl_modality.parts.config import PartsConfig
from trl_modality.training.prepare import paired_config


OURS = [field for field in fields(ModalityBalancedSFTConfig) if field.name not in {f.name for f in fields(SFTConfig)}]


def test_every_field_is_documented_once_and_alike():
    """The docstring's paragraph of a field, its default and its `help` say the same."""
    doc = f"{PartsConfig.__doc__}\n{DistillationConfig.__doc__}\n{ModalityBalancedSFTConfig.__doc__}"
    assert len(OURS) == 46
    for field in OURS:
        paragraph = re.search(
            rf"^ +{field.name} \(`.+`, \*optional\*, defaults to `(.+)`\):\n((?: {{12}}.+\n)+)", doc, re.MULTILINE
        )
        assert paragraph, field.name
        default, text = paragraph.groups()
        assert default.strip('"') == str(field.default)

        def words(sentence):
            return re.sub(r"[^\w.]+", " ", sentence.replace("−", "-")).split()

        assert words(text) == words(field.metadata["help"]), field.name


REACHED = {
    "text_rich_weight": 0.0,
    "vision_centric_weight": 2.0,
    "max_pixels": 65536,
    "min_pixels": 1024,
    "kl_weight": 0.5,
    "divergence": "jsd",
    "beta": 0.25,
    "kl_temperature": 2.0,
    "loss_backend": "reference",
    "loss_tile_mib": 64.0,
    "gradient_filter": 0.001,
    "share_prefix": True,
    "overlong": "drop",
    "curriculum": "two_stage",
    "curriculum_switch": 0.2,
    "curriculum_period": 0.25,
    "curriculum_target_gap": 0.1,
    "curriculum_window": 8,
    "kl_schedule": "until",
    "kl_schedule_at": 0.6,
    "replay_ratio": 0.3,
    "replay_schedule": "from",
    "replay_schedule_at": 0.7,
    "check_rows": -1,
    "gap_eval_rows": 64,
    "gap_eval_max_new_tokens": 32,
    "gap_eval_tolerance": 0.01,
    "bad_rows": "skip",
    "bad_rows_limit": 20.0,
    "data_timeout": 60.0,
    "on_nonfinite": "skip",
    "nonfinite_limit": 3,
    "resume_overrides": ["kl_weight", "model"],
    "teacher": "ema",
    "teacher_ema_decay": 0.9,
    "teacher_view": "text_only",
    "teacher_top_k": 32,
    "teacher_model_init_kwargs": {"revision": "main"},
    "anchor": "ema",
    "anchor_weight": 0.5,
    "kl_clip": 0.05,
    "kl_mask": "confident",
    "kl_confidence": 0.9,
    "train_parts": {"language_model": 1e-5, "vision_tower": 0.0},
    "lora_parts": ["attention", "last_n_layers=2"],
}


def test_every_field_is_reachable_from_the_command_line_and_yaml(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "divergence: jsd\nbeta: 0.25\nkl_temperature: 2.0\ncheck_rows: -1\n"
        "loss_backend: reference\nloss_tile_mib: 64\noverlong: drop\nmax_pixels: 65536\n"
        "curriculum_period: 0.25\ncurriculum_target_gap: 0.1\ncurriculum_window: 8\n"
        "kl_schedule: until\nkl_schedule_at: 0.6\n"
        "replay_ratio: 0.3\nreplay_schedule: from\nreplay_schedule_at: 0.7\n"
        "gap_eval_rows: 64\ngap_eval_max_new_tokens: 32\ngap_eval_tolerance: 0.01\n"
        "bad_rows: skip\nbad_rows_limit: 20\ndata_timeout: 60\n"
        "on_nonfinite: skip\nnonfinite_limit: 3\n"
        "resume_overrides: [kl_weight, model]\n"
        "teacher: ema\nteacher_ema_decay: 0.9\nteacher_view: text_only\nteacher_top_k: 32\n"
        "teacher_model_init_kwargs:\n  revision: main\n"
        "anchor: ema\nanchor_weight: 0.5\nkl_clip: 0.05\nkl_mask: confident\nkl_confidence: 0.9\n"
        "train_parts:\n  language_model: 1e-5\n  vision_tower: 0\ncache_image_features: true\n"
    )
    flags = (
        "--kl_weight 0.5 --text_rich_weight 0 --vision_centric_weight 2 --gradient_filter 0.001 "
        "--curriculum two_stage --share_prefix True --min_pixels 1024 --lora_parts attention last_n_layers=2 "
        "--curriculum_switch 0.2"
    )
    base = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "False", "--config", str(recipe)]
    (args,) = TrlParser((ModalityBalancedSFTConfig,)).parse_args_and_config([*base, *flags.split()])
    given = {field.name: getattr(args, field.name) for field in OURS}
    assert given == REACHED | {"cache_image_features": f"{tmp_path}/_image_features"}


@pytest.mark.parametrize(("written", "value"), [("auto", "auto"), ("true", True), ("false", False)])
def test_share_prefix_is_a_word_or_a_truth_value(tmp_path, written, value):
    """In YAML; the command line writes True and False as Python does."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"share_prefix: {written}\n")
    base = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "False"]
    (args,) = TrlParser((ModalityBalancedSFTConfig,)).parse_args_and_config([*base, "--config", str(recipe)])
    assert args.share_prefix is value
    flag = ["--share_prefix", str(value)]
    (args,) = TrlParser((ModalityBalancedSFTConfig,)).parse_args_and_config([*base, *flag])
    assert args.share_prefix is value


@pytest.mark.parametrize(
    ("given", "folder"), [("False", None), ("true", "{}/_image_features"), ("/scratch/a", "/scratch/a")]
)
def test_a_cache_of_features_is_a_folder_or_a_truth_value(tmp_path, given, folder):
    base = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "False", "--cache_image_features", given]
    (args,) = TrlParser((ModalityBalancedSFTConfig,)).parse_args_and_config(base)
    assert args.cache_image_features == (folder and folder.format(tmp_path))
    with pytest.raises(ValueError, match="`cache_image_features` must be True, False or a folder, got 3"):
        ModalityBalancedSFTConfig(str(tmp_path), cache_image_features=3)


def test_choices_are_those_of_the_parser(tmp_path, capsys):
    with pytest.raises(SystemExit):
        TrlParser((ModalityBalancedSFTConfig,)).parse_args_and_config(["--output_dir", "x", "--divergence", "kl"])
    assert "invalid choice: 'kl'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("progress", "mix"), [(0.0, Mix(1, 0, 1)), (0.29, Mix(1, 0, 1)), (0.3, Mix(0, 1, 0)), (1.0, Mix(0, 1, 0))]
)
def test_two_stage(progress, mix):
    assert get_schedule("two_stage", switch=0.3)(progress) == mix


def test_none_is_both_views_throughout():
    assert {get_schedule("none")(p) for p in (0.0, 0.5, 1.0)} == {Mix(1, 1, 1)}


def test_a_config_of_the_hosts_that_takes_a_large_gap_for_the_best(config, monkeypatch):
    warnings = []
    monkeypatch.setattr("trl_modality.training.prepare.logger.warning", warnings.append)
    paired_config(config(SFTConfig, metric_for_best_model="eval_accuracy_gap"), None)
    assert "largest `eval_accuracy_gap`, of which less is better: set `greater_is_better=False`" in warnings.pop()
    paired_config(config(SFTConfig, metric_for_best_model="eval_accuracy_gap", greater_is_better=False), None)
    paired_config(config(SFTConfig, metric_for_best_model="eval_vision_centric_accuracy"), None)
    paired_config(config(SFTConfig), None)
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("kl_weight", "1.0", "a number"),
        ("beta", "half", "a number"),
        ("replay_ratio", None, "a number"),
        ("loss_tile_mib", "64", "a number"),
        ("gap_eval_rows", "8", "a whole number"),
        ("curriculum_window", 2.5, "a whole number"),
        ("check_rows", True, "a whole number"),
    ],
)
def test_what_is_no_number_is_told_by_the_field(config, name, value, kind):
    with pytest.raises(ValueError, match=re.escape(f"`{name}` must be {kind}, got {value!r}")):
        config(**{name: value})


def test_every_number_of_ours_is_looked_at(config):
    for field in OURS:
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            with pytest.raises(ValueError, match=f"`{field.name}` must be a"):
                config(**{field.name: "x"})
