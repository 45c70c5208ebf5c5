"""Blocking points of a training micro-batch that are known, each with its reason."""

_SIZES = "the towers of these families make their masks and positions of the sizes of the images, on the device"
_CHECKS = "it checks the number of image tokens against that of the features"
_PADS = "it drops the images that only pad a row, by a mask"

KNOWN_BLOCKING = {
    "transformers/utils/import_utils.py:* torch_compilable_check": _CHECKS,
    "transformers/masking_utils.py:* _ignore_causal_mask_sdpa": "it looks for padding, to leave the mask out without",
    "transformers/masking_utils.py:* _ignore_bidirectional_mask_sdpa": "likewise, of the mask of a tower",
    "transformers/masking_utils.py:* create_recurrent_attention_mask": "likewise, of layers that carry a state",
    "transformers/vision_utils.py:* get_vision_*": _SIZES,
    "transformers/models/llava_next/*:* pack_image_features": _SIZES,
    "transformers/models/llava_next/*:* unpad_image": _SIZES,
    "transformers/models/llava_next/*:* get_anyres_image_grid_shape": _SIZES,
    "transformers/models/llava_next/*:* image_size_to_num_patches": _SIZES,
    "transformers/models/llava_onevision/*:* pack_image_features": _SIZES,
    "transformers/models/llava_onevision/*:* unpad_image": _SIZES,
    "transformers/models/llava_onevision/*:* get_anyres_image_grid_shape": _SIZES,
    "transformers/models/llava_onevision/*:* image_size_to_num_patches": _SIZES,
    "transformers/models/llava_onevision/*:* <listcomp>": _SIZES,
    "transformers/models/idefics3/*:* get_image_features": _PADS,
    "transformers/models/smolvlm/*:* get_image_features": _PADS,
    # Of transformers before 5.24
    "transformers/models/idefics3/*:* forward": "its tower numbers the patches that do not pad an image, by a mask",
    "transformers/models/smolvlm/*:* forward": "likewise",
    "transformers/models/smolvlm/*:* inputs_merger": "it puts features at the image tokens, by a mask",
    "transformers/models/siglip2/*:* resize_positional_embeddings": _SIZES,
    "transformers/models/mistral3/*:* forward": _SIZES,
    "transformers/models/mistral3/*:* get_image_features": _SIZES,
    "transformers/models/pixtral/*:* <listcomp>": _SIZES,
    "transformers/models/gemma4/*:* forward": "it drops the patches that only pad an image, by a mask",
    "transformers/models/gemma4/*:* get_image_features": "it splits the features of all images at their sizes",
    "transformers/models/qwen*_vl*/*:* <listcomp>": "it splits the patches of all images at their sizes",
    "transformers/models/qwen*_vl*/*:* get_image_features": "it splits the features of all images at their sizes",
    "transformers/models/qwen2_5_vl/*:* forward": "it orders patches by windows, by an index on the CPU",
    "transformers/models/qwen2_5_vl/*:* permute_input_for_window_attn": "likewise",
    "transformers/models/qwen3_vl*/*:* _deepstack_process": "it adds features at the image tokens, by a mask",
    "transformers/models/qwen3_vl_moe/*:* forward": "it runs those experts that any token goes to, one after another",
    "transformers/models/qwen3_5*/*:* <listcomp>": "it splits the patches of all images at their sizes",
    "transformers/models/qwen3_5*/*:* get_image_features": "it splits the features of all images at their sizes",
    "transformers/models/qwen3_5_moe/*:* forward": "it runs those experts that any token goes to, one after another",
    "transformers/models/lfm2_vl/*:* get_image_features": "it takes the tokens of images by a mask and their sizes",
    "transformers/models/chameleon/*:* convert_img2bpe": "it looks the codes of images up on the CPU",
    "backward IndexBackward0": "of an index of the above, which again is a mask or on the CPU",
    "backward IndexPutBackward0": "likewise",
}
"""Those of the hosts, which are not ours to remove: reasons by pattern (`fnmatch`) of `BlockingPoint.by`."""

ONCE_A_RUN = {
    "trl_modality/modeling/forward.py:* bias_without_excluded": "the tokens that a model masks are copied once",
    "trl_modality/modeling/flex.py:* _runs": "FlexAttention is tried once for each shape of a layer",
}
"""Ours, at the first micro-batch of a run and at no other."""
