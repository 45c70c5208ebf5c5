"""What we lean on in TRL, transformers and accelerate beyond their documented API. A release that moves one of these
fails here first, by name; `trl_modality._compat` says what each is for."""

import copy
import dataclasses
import inspect

import pytest
import torch
import transformers
import trl
from accelerate.state import GradientState
from datasets import Dataset
from packaging.version import Version
from transformers import LlamaConfig, LlamaForCausalLM, Trainer
from transformers.trainer_jit_checkpoint import CheckpointManager
from trl import SFTConfig, SFTTrainer

from tests.families.models import IS_OLDER
from tests.testing.tiny import pair_dataset, pair_row, tiny_llava, written_out
from tests.testing.tiny_families import build, is_built
from trl_modality import ModalityBalancedSFTTrainer
from trl_modality._compat import (
    UNFINISHED_MARK,
    DataCollatorForVisionLanguageModeling,
    GreedyLR,
    mend_llama4,
    name_attention,
    rotate_checkpoints,
)
from trl_modality.modeling.families import FAMILIES


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_floors_are_met():
    assert Version("1.16") <= Version(trl.__version__) < Version("2")
    assert Version(transformers.__version__) >= Version("5.19")


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("_set_signature_columns_if_needed", ["self"]),
        ("_remove_unused_columns", ["self", "dataset", "description"]),
        ("get_batch_samples", ["self", "epoch_iterator", "num_batches", "device"]),
        ("_get_num_items_in_batch", ["self", "batch_samples", "device"]),
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"]),
        ("_load_best_model", ["self"]),
        ("compute_loss", ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]),
        ("log", ["self", "logs", "start_time"]),
        ("evaluate", ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"]),
        (
            "evaluation_loop",
            ["self", "dataloader", "description", "prediction_loss_only", "ignore_keys", "metric_key_prefix"],
        ),
        ("get_tp_size", ["self"]),
        ("_get_learning_rate", ["self"]),
        ("_get_grad_norm", ["self", "model", "grad_norm"]),
        ("_finalize_training", ["self", "trial", "num_train_samples", "start_time"]),
        ("_evaluate", ["self", "trial", "ignore_keys_for_eval", "skip_scheduler"]),
        (
            "_maybe_log_save_evaluate",
            [
                *["self", "tr_loss", "grad_norm", "model", "trial", "epoch", "ignore_keys_for_eval"],
                *["start_time", "learning_rate"],
            ],
        ),
        ("_save_checkpoint", ["self", "model", "trial"]),
        ("_get_output_dir", ["self", "trial"]),
        ("save_model", ["self", "output_dir", "_internal_call"]),
        ("_save", ["self", "output_dir", "state_dict"]),
        ("_save_optimizer_and_scheduler", ["self", "output_dir"]),
        ("_save_scaler", ["self", "output_dir"]),
        ("_save_rng_state", ["self", "output_dir"]),
        ("_load_rng_state", ["self", "checkpoint"]),
    ],
)
def test_methods_we_override_or_call(method, expected):
    assert parameters(getattr(SFTTrainer, method)) == expected


@pytest.mark.parametrize(
    ("caller", "callee"),
    [
        ("_get_dataloader", "_remove_unused_columns"),
        ("_remove_unused_columns", "_set_signature_columns_if_needed"),
        ("get_batch_samples", "_get_num_items_in_batch"),
        ("_run_epoch", "get_batch_samples"),
        ("predict", "evaluation_loop"),
        ("_run_epoch", "training_step"),
        ("_run_epoch", "_get_grad_norm"),
        ("_inner_training_loop", "_run_epoch"),
        ("_inner_training_loop", "_finalize_training"),
        ("_run_epoch", "_maybe_log_save_evaluate"),
        ("_maybe_log_save_evaluate", "_evaluate"),
        ("_maybe_log_save_evaluate", "_save_checkpoint"),
        ("_save_checkpoint", "save_model"),
        ("_save_checkpoint", "_save_optimizer_and_scheduler"),
        ("_save_checkpoint", "_save_scaler"),
        ("_save_checkpoint", "_save_rng_state"),
        ("save_model", "_save"),
    ],
)
def test_the_host_calls_what_we_override(caller, callee):
    assert f"self.{callee}(" in inspect.getsource(getattr(Trainer, caller))


def test_how_the_host_makes_a_step_and_a_checkpoint():
    """The order that the health gate and the saving before evaluations stand in."""
    epoch, epochs = inspect.getsource(Trainer._run_epoch), inspect.getsource(Trainer._inner_training_loop)
    places = [epoch.index(each) for each in ("self._get_grad_norm(", "self.optimizer.step(", "model.zero_grad(")]
    assert places == sorted(places)
    assert "self.args.logging_nan_inf_filter" in epoch
    for name in ("epoch", "epochs_trained", "trial", "ignore_keys_for_eval", "start_time"):
        assert f"{name}={name}" in epochs
    due = inspect.getsource(Trainer._maybe_log_save_evaluate)
    assert due.index("self._evaluate(") < due.index("self._save_checkpoint(")
    saved = inspect.getsource(Trainer._save_checkpoint)
    assert "self.state.save_to_json(" in saved
    assert "save_total_limit=self.args.save_total_limit" in saved
    assert parameters(rotate_checkpoints)[:4] == [
        "output_dir",
        "save_total_limit",
        "best_model_checkpoint",
        "use_mtime",
    ]
    assert hasattr(GreedyLR, "step")
    jit = inspect.getsource(CheckpointManager.execute_jit_checkpoint)
    assert f'"{UNFINISHED_MARK}"' in jit
    assert jit.index("self.trainer._save_checkpoint(") < jit.index("os.remove(sentinel_file)")


def test_the_hosts_collator_has_the_settings_that_ours_takes_over():
    fields = {field.name for field in dataclasses.fields(DataCollatorForVisionLanguageModeling)}
    ours = {"processor", "max_length", "completion_only_loss", "pad_to_multiple_of", "dataset_text_field"}
    assert ours | {"assistant_only_loss", "chat_template"} <= fields


def test_the_host_makes_its_vision_collator_for_an_image_column(config):
    processor = tiny_llava()[1]
    rows = written_out([pair_row(0)])
    trainer = SFTTrainer(
        tiny_llava()[0], config(cls=SFTConfig), train_dataset=Dataset.from_list(rows), processing_class=processor
    )
    assert type(trainer.data_collator) is DataCollatorForVisionLanguageModeling
    assert trainer._is_vision_dataset
    trainer._set_signature_columns_if_needed()
    assert trainer._signature_columns == ["messages", "prompt", "completion", "image", "images"]
    assert (trainer.aux_loss_enabled, trainer.router_aux_loss_coef) == (False, 0.0)


def test_attributes_of_a_run_with_pairs(config, make_trainer):
    trainer = make_trainer(train_dataset=pair_dataset(4))
    trainer.train()
    assert trainer.current_gradient_accumulation_steps == 1
    assert trainer.model_accepts_loss_kwargs
    assert trainer.get_tp_size() == 1


def test_num_items_counts_shifted_labels(config):
    trainer = SFTTrainer(
        tiny_llava()[0],
        config(cls=SFTConfig),
        train_dataset=Dataset.from_list(written_out([pair_row(0)])),
        processing_class=tiny_llava()[1],
    )
    labels = torch.tensor([[5, 5, -100], [5, -100, 5]])
    assert trainer._get_num_items_in_batch([{"labels": labels}], torch.device("cpu")) == 2


def test_gradient_state_knows_the_last_batch():
    assert {"end_of_dataloader", "remainder"} <= set(dir(GradientState))


def test_base_model_is_the_backbone_and_forward_takes_extra_keywords():
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    output = model.base_model(input_ids=torch.tensor([[1, 2]]), use_cache=False)
    assert output.last_hidden_state.shape == (1, 2, 8)
    llava, processor = tiny_llava()
    assert llava.base_model is llava.model
    assert processor.image_token_id == llava.config.image_token_id


def test_the_resume_bug_that_we_work_around_is_still_there(config, tmp_path):
    """`Trainer` resumes a LLaVA checkpoint without its weights. When this fails, the host is mended: raise the floor
    to that release and drop `_compat.load_renamed_checkpoint` and what calls it."""
    rows = Dataset.from_list(written_out([pair_row(i) for i in range(4)]))
    args = config(cls=SFTConfig, save_strategy="steps", save_steps=1, max_steps=1)
    trainer = SFTTrainer(tiny_llava()[0], args, train_dataset=rows, processing_class=tiny_llava()[1])
    trainer.train()
    fresh = SFTTrainer(tiny_llava(seed=9)[0], args, train_dataset=rows, processing_class=tiny_llava()[1])
    fresh._load_from_checkpoint(f"{args.output_dir}/checkpoint-1")
    assert not torch.equal(fresh.model.lm_head.weight, trainer.model.lm_head.weight)
    ours = ModalityBalancedSFTTrainer(
        tiny_llava(seed=9)[0], args, train_dataset=rows, processing_class=tiny_llava()[1]
    )
    ours._load_from_checkpoint(f"{args.output_dir}/checkpoint-1")
    assert torch.equal(ours.model.lm_head.weight, trainer.model.lm_head.weight)


def test_attention_functions_and_masks_are_looked_up_by_name():
    """As `attention` needs it: the tables that `register` fills, and a mask function that may say there is no mask."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for name in ("sdpa", "flash_attention_2", "flex_attention"):
        assert name in ALL_ATTENTION_FUNCTIONS
        assert name in ALL_MASK_ATTENTION_FUNCTIONS
    assert "eager" in ALL_MASK_ATTENTION_FUNCTIONS


def test_layers_read_the_attention_of_the_config_that_we_name():
    """`_compat.name_attention`: of this config alone, and not written to disk."""
    model, _ = tiny_llava()
    decoder = model.get_decoder()
    name_attention(decoder.config, "eager")
    assert decoder.config._attn_implementation == "eager"
    assert model.config.vision_config._attn_implementation == "sdpa"
    assert all(layer.self_attn.config is decoder.config for layer in decoder.layers)
    assert "attn_implementation" not in decoder.config.to_json_string()


def test_an_attention_without_a_mask_function_is_given_no_mask():
    """Nor are its positions read back from their device: `backbone.without_masks` is made of that."""
    from transformers.masking_utils import create_causal_mask

    config = copy.deepcopy(build("llava")[0].get_decoder().config)
    embeddings, positions = torch.zeros(1, 4, 8), torch.zeros(1, 4, dtype=torch.long)
    assert create_causal_mask(config, embeddings, None, None, positions) is not None  # four rows of one token
    name_attention(config, "shared_prefix_of_nobody")
    assert create_causal_mask(config, embeddings, None, None, positions.to("meta")) is None


def test_flash_attention_asks_the_config_for_its_name():
    """What `_compat.attention_named` is for: once it is told by its caller, that can go."""
    from transformers.integrations import flash_attention

    assert "module.config._attn_implementation" in inspect.getsource(flash_attention.flash_attention_forward)


@pytest.mark.parametrize(
    "name",
    sorted(name for name, each in FAMILIES.items() if each.encodes_once > each.cross_attends and is_built(name)),
)
def test_a_backbone_gets_its_features_from_its_own_method(name):
    """`backbone._features_picked` stands in for it, and reads where image tokens are by the config's id."""
    backbone = build(name)[0].base_model
    assert "self.get_image_features(" in inspect.getsource(type(backbone).forward)
    assert isinstance(backbone.config.image_token_id, int)
    if hasattr(backbone, "get_rope_index"):
        wanted = {"input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids"}
        assert wanted <= set(parameters(backbone.get_rope_index))


def test_a_decoder_is_given_the_images_that_it_reads_by_name():
    """`cross_attention.images_read_by_rows` changes them on their way."""
    source = inspect.getsource(type(build("mllama")[0].base_model).forward)
    for name in ("cross_attention_states", "cross_attention_mask", "full_text_row_masked_out_mask"):
        assert f"{name}={name}," in source


def test_a_resumed_run_skips_the_batches_of_its_epoch_that_it_was_trained_on():
    """Which `PlanSampler` leaves empty: the trainer draws them from the batch sampler and does not look at them."""
    from accelerate import skip_first_batches
    from transformers import Trainer

    source = inspect.getsource(Trainer)
    assert "skip_first_batches(train_dataloader, steps_trained_in_current_epoch)" in source
    loader = torch.utils.data.DataLoader(list(range(8)), batch_sampler=[[], [], [2, 3], [4, 5]])
    assert [batch.tolist() for batch in skip_first_batches(loader, 2)] == [[2, 3], [4, 5]]


def test_a_checkpoint_keeps_what_is_in_the_state_of_its_trainer(tmp_path):
    """Also under a name that is no callback's: there is where the plan goes."""
    from transformers import TrainerState

    state = TrainerState()
    state.stateful_callbacks["trl_modality_plan"] = {"plan": {"rows": 3}}
    state.save_to_json(str(tmp_path / "state.json"))
    assert TrainerState.load_from_json(str(tmp_path / "state.json")).stateful_callbacks == state.stateful_callbacks


def test_the_state_of_a_checkpoint_is_written_last():
    """Which is how `training.checkpoints` knows a whole one without a manifest; the host's own goes by its number."""
    from transformers import Trainer
    from transformers.trainer_utils import get_last_checkpoint

    source = inspect.getsource(Trainer._save_checkpoint)
    written = [source.index(call) for call in ("save_model", "_save_optimizer", "_save_rng_state", "save_to_json")]
    assert written == sorted(written)
    assert "TRAINER_STATE_NAME" not in inspect.getsource(get_last_checkpoint), "it looks now: drop ours"


def test_a_run_resumed_at_its_last_step_does_another_one(config):
    """Which `GuardedSFTTrainer._run_epoch` keeps ours from. When this fails, drop that."""
    rows = Dataset.from_list([{"text": f"{i} + {i}"} for i in range(8)])
    args = config(cls=SFTConfig, save_strategy="steps", save_steps=1, max_steps=1, per_device_train_batch_size=2)

    def make(trainer_class):
        model, processor = tiny_llava()
        return trainer_class(model, args, train_dataset=rows, processing_class=processor.tokenizer)

    make(SFTTrainer).train()
    for trainer_class, steps in ((SFTTrainer, 2), (ModalityBalancedSFTTrainer, 1)):
        trainer = make(trainer_class)
        trainer.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-1")
        assert trainer.state.global_step == steps


def test_a_schedule_is_made_before_the_state_of_a_checkpoint_is_loaded():
    """Which is when `Hyperparameters` keeps the rates of the config."""
    from transformers import Trainer

    source = inspect.getsource(Trainer._prepare_for_training)
    assert source.index("self.create_scheduler(") < source.index("self._load_optimizer_and_scheduler(")
    assert source.index("self.accelerator.prepare(self.model, self.optimizer)") < source.index(
        "self.create_scheduler("
    )
    assert list(inspect.signature(Trainer._get_output_dir).parameters) == ["self", "trial"]


def test_peft_says_whether_a_config_targets_a_module():
    from peft import LoraConfig

    from trl_modality._compat import check_target_module_exists

    config = LoraConfig(target_modules=["q_proj"], layers_to_transform=[1], exclude_modules=["tower.layers.1.q_proj"])
    modules = ("a.layers.1.q_proj", "a.layers.0.q_proj", "a.layers.1.k_proj", "tower.layers.1.q_proj")
    assert [bool(check_target_module_exists(config, module)) for module in modules] == [True, False, False, False]


def test_streams_that_shuffle_say_so_by_name():
    from trl_modality._compat import has_shuffle_buffer

    stream = Dataset.from_list([{"x": i} for i in range(4)]).to_iterable_dataset()
    assert not has_shuffle_buffer(stream)
    assert not has_shuffle_buffer(stream.shuffle(seed=0, buffer_size=1))
    assert has_shuffle_buffer(stream.shuffle(seed=0, buffer_size=2))
    assert has_shuffle_buffer(stream.shuffle(seed=0, buffer_size=2).map(lambda row: row).take(3))


def test_a_loader_for_one_process_is_not_sharded_again():
    """`sampling.data_loader`: the sampler knows its rank."""
    from accelerate.data_loader import prepare_data_loader

    sampler = [[0, 1], [2]]
    loader = torch.utils.data.DataLoader(list(range(8)), batch_sampler=sampler)
    prepared = prepare_data_loader(loader, torch.device("cpu"), num_processes=1, process_index=0, put_on_device=True)
    assert prepared.batch_sampler is sampler


def test_a_data_loader_has_one_place_where_its_iterators_are_made():
    """`curriculum.deadline` wraps them there, and ends their workers as they do themselves."""
    from torch.utils.data import dataloader

    source = inspect.getsource(dataloader.DataLoader.__iter__)
    assert source.count("self._get_iterator()") == 2
    workers = inspect.getsource(dataloader._MultiProcessingDataLoaderIter)
    assert "self._workers" in workers
    assert "def _shutdown_workers(self)" in workers
    assert 'f"DataLoader timed out after {self._timeout} seconds"' in workers
    assert "DataLoader worker (pid(s) " in workers


@pytest.mark.skipif(IS_OLDER, reason="the host's fault of later releases")
def test_llama4_reads_what_its_language_model_does_not_return():
    """`mend_llama4` can go when this fails."""
    with pytest.raises(AttributeError, match="image_outputs"):
        build("llama4")[0](input_ids=torch.tensor([[1, 2]]))


def test_llama4_is_mended_once_beside_hooks_of_its_user():
    model = build("llama4")[0]
    model.language_model.register_forward_hook(lambda *args: None)
    for _ in range(2):
        mend_llama4(model)
    assert len(model.language_model._forward_hooks) == 2
    model(input_ids=torch.tensor([[1, 2]]))
