#!/bin/sh
# Pictures, questions and answers become a model that answers questions about pictures: no facts or completions by hand.
#
#     sh examples/from_pictures.sh [FOLDER]     (default: outputs/from_pictures)
#
# The model is the demo's base (`examples/base_model`), which transcribes charts and answers questions about facts in
# words, but cannot answer a question about a picture. It writes its own facts and its own completions, is trained on
# them, and is measured on pictures of records that it has never seen; beside it stands a training on the true facts.
# Every step is one command. A step that was interrupted is given again, and goes on where it was.
set -eu

OUT=${1:-outputs/from_pictures}
BASE=examples/base_model
MODALITY=${MODALITY:-trl-modality}
PYTHON=${PYTHON:-python}

train() {  # train NAME DATASET
    $MODALITY train --model_name_or_path $BASE --dataset_name "$2" --dataset_train_split train \
        --output_dir "$OUT/$1" --max_steps ${STEPS:-200} --per_device_train_batch_size 32 --learning_rate 1e-3 \
        --lr_scheduler_type cosine --warmup_steps 10 --adam_beta2 0.98 --max_length null \
        --replay_dataset_name "$OUT/text" --replay_ratio 0.2 --kl_weight 1 \
        --gradient_checkpointing false --dataloader_pin_memory false --logging_steps 20 --eval_strategy no \
        --save_strategy no --report_to none
}

measure() {  # measure NAME MODEL [OPTION ...]
    name=$1 model=$2
    shift 2
    $MODALITY eval "$model" "$OUT/held_out" --output "$OUT/evals/$name" --max-new-tokens 32 --batch-size 100 \
        --conditions text_rich vision_centric blind "$@"
}

# 0. What people have: `questions` has pictures, questions and answers. The rest is for measuring and comparing.
$PYTHON examples/from_pictures_data.py "$OUT" ${ROWS:-2400} ${HELD_OUT:-400}

# 1. The facts of each picture, by the base itself. A row stays where the base answers rightly from these words alone.
$MODALITY data transcribe "$OUT/questions" --out "$OUT/facts" --model $BASE \
    --prompt list --template '{title}
{facts}
{ask}' --keep answered --max-new-tokens 32 --batch-size 100

# 2. The completions, by the base itself, from the picture with these words. Right answers are kept.
$MODALITY data trace "$OUT/facts" --out "$OUT/traces" --model $BASE --max-new-tokens 32 --batch-size 100

# 3. Training on what it wrote, and on the true facts.
train from_pictures "$OUT/traces"
train from_true_facts "$OUT/true_pairs"

# 4. Held-out pictures, before and after.
measure before $BASE
measure from_pictures "$OUT/from_pictures" --baseline "$OUT/evals/before"
measure from_true_facts "$OUT/from_true_facts" --baseline "$OUT/evals/from_pictures"
