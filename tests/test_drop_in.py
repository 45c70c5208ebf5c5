"""Without pairs the trainer is SFTTrainer: the same losses to the last bit, on every kind of run."""

import pytest
from datasets import Dataset, Features, Image, List
from transformers import LlamaConfig, LlamaForCausalLM, set_seed
from trl import SFTConfig, SFTTrainer

from tests.testing.tiny import MESSAGES, pair_row, tiny_llava, written_out
from trl_modality import ModalityBalancedSFTTrainer


TEXTS = [f"red={i % 7} green={i % 5} blue={i % 3}; red+green={i % 7 + i % 5}" for i in range(64)]


def text_model():
    set_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    )


def text_set_up():
    return text_model(), tiny_llava()[1].tokenizer, Dataset.from_dict({"text": TEXTS}), {}


def packed_set_up():
    # "wrapped" packs without flash attention, which a CPU does not have
    options = {"packing": True, "packing_strategy": "wrapped", "max_length": 32}
    return text_model(), tiny_llava()[1].tokenizer, Dataset.from_dict({"text": TEXTS * 4}), options


def vision_set_up():
    features = Features({"images": List(Image()), "prompt": MESSAGES, "completion": MESSAGES})
    rows = Dataset.from_list(written_out([pair_row(i) for i in range(32)]), features=features)
    return *tiny_llava(), rows, {}


def streaming_set_up():
    return text_model(), tiny_llava()[1].tokenizer, Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(), {}


@pytest.mark.parametrize("set_up", [text_set_up, packed_set_up, vision_set_up, streaming_set_up])
@pytest.mark.parametrize("ours_too", [False, True], ids=["with SFTConfig", "with our config"])
def test_twenty_steps_are_bit_identical(config, set_up, ours_too):
    logs = []
    for trainer_cls in (SFTTrainer, ModalityBalancedSFTTrainer):
        model, processing_class, dataset, options = set_up()
        ours = ours_too and trainer_cls is ModalityBalancedSFTTrainer
        args = config(**({} if ours else {"cls": SFTConfig}), max_steps=20, **options)
        trainer = trainer_cls(model, args, train_dataset=dataset, processing_class=processing_class)
        trainer.train()
        logs.append(
            [
                {k: v for k, v in log.items() if "per_second" not in k and "runtime" not in k}
                for log in trainer.state.log_history
            ]
        )
    assert len(logs[0]) == 21
    assert logs[0] == logs[1]
    assert logs[0][0]["loss"] > logs[0][19]["loss"]
