"""What the reference says that the code does not: by hand, and held to the code by ``tests/docs``."""

from __future__ import annotations

ENVIRONMENT = {
    "SELECTOR_CACHE": "Folder for caches of this machine: prepared images, compiled models, copies of remote files. "
    "Default: the user's cache folder.",
    "SELECTOR_STORE": "Folder or URL of the feature store. `--store` overrides it.",
    "SELECTOR_STORE_MAX_SIZE": "Maximum size of the store, such as `50GB`. The least recently used entries are removed.",
    "SELECTOR_STORE_CACHE_SIZE": "Maximum size of the local cache of prepared images.",
    "SELECTOR_STORE_SHARED": "Set it to 1 on the machine whose disk others mount: it marks a local folder as shared.",
    "SELECTOR_HISTORY": "File of the history of measured results.",
    "SELECTOR_MAX_PIXELS": "Maximum number of pixels of an image. `--max-pixels` overrides it.",
    "SELECTOR_THREADS": "Maximum number of threads of a run. `--threads` overrides it.",
    "SELECTOR_MAX_MEMORY": "Maximum memory of a model at work, such as `4GB`. `--max-memory` overrides it.",
    "SELECTOR_MAX_UNPACKED": "Maximum size of a compressed data file once it is unpacked, and of a network that starts at random, such as `4GB`.",
}
"""Read by selector itself."""

OTHER_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1 keeps the Hugging Face client off the network, as `--offline` does.",
    "OMP_NUM_THREADS": "Number of CPU threads per model (also `MKL_NUM_THREADS`).",
    "CUDA_VISIBLE_DEVICES": "GPUs that a run may use.",
    "RAY_ADDRESS": "Ray cluster to join; `--ray-address` overrides it.",
    "TORCH_HOME": "Where torchvision keeps weights that it downloads.",
    "CXX": "C++ compiler of `--backend compile`.",
}
"""Read by libraries that selector uses."""

EXIT_CODES = {
    0: ("Finished.", "Read the table."),
    1: ("Failed: no model could be ranked or measured, or a file could not be written.", "Read the message on stderr."),
    2: ("Wrong usage, option, zoo or dataset.", "Correct what the message names. Nothing was computed."),
    3: ("Finished, and at least one model or dataset failed.", "Read the `status` column; the other rows are valid."),
    130: ("Interrupted by Ctrl-C.", "Give the same command again. It continues where it stopped."),
}

CAVEATS: dict[str, tuple[str, str]] = {
    "no-signal": (
        "No model scores clearly better than chance.",
        "Check the labels. Then try a zoo whose pretraining is closer to your data.",
    ),
    "too-few-examples": (
        "Several models are not significantly different on this many items.",
        "Fine-tune the tied models, or take the cheapest. The caveat estimates how many items separate the first two.",
    ),
    "proxies-disagree": (
        "The metrics in the default score order the models differently.",
        "Fine-tune more models: `--top-k 4`.",
    ),
    "explained-by-prior": (
        "Size, upstream accuracy and past results alone give nearly the same order.",
        "Read the ranking as a ranking of known models. Fine-tune two or three.",
    ),
    "task-not-trainable": (
        "The labels can be ranked for, but no task trains on them.",
        "Use the ranking alone, or convert the labels to a supported task.",
    ),
    "no-better-than-majority": (
        "The selected model is not shown to beat a trivial prediction, such as the most frequent class.",
        "Choose `--metric balanced_accuracy` or `macro_f1`, or label more items of rare classes.",
    ),
    "out-of-calibration": (
        "Your data differ from every dataset on which the default score was compared with fine-tuning.",
        "Rely on fine-tuned results rather than on the transferability.",
    ),
    "multiple-variants": (
        "Several rows are layers or poolings of one model, and the highest was selected on the same items.",
        "Expect its transferability to be slightly optimistic.",
    ),
    "rare-classes": (
        "Some classes have few items, so their scores and metrics are uncertain.",
        "Label more items of these classes, or merge them.",
    ),
    "excluded": ("A model exceeds a limit you set.", "Relax the limit that its row names, or leave the model out."),
    "failed": (
        "A model could not be loaded or computed.",
        "Read the reason in its row; `--debug` shows the traceback.",
    ),
    "pruned": (
        "Models whose interval could not reach the top k were pruned before all rows were computed.",
        "Use `--prune off` to compute every model on all rows.",
    ),
    "masked-pretraining": (
        "The zoo has models pretrained by masked image modelling, which frozen features under-rank.",
        "Include one of the named models in the fine-tuning stage.",
    ),
    "near-duplicates": (
        "Items of different splits are nearly identical, so the metrics are too high.",
        "Keep copies of an item in one split: define the splits yourself.",
    ),
    "neighboring-frames": (
        "File names suggest that neighboring video frames are in different splits.",
        "Define `train/`, `val/` and `test/` by recording.",
    ),
}
"""When each caveat appears, and what to do."""

STRATEGIES = {
    "frozen": "Trains nothing but the head, which is solved in closed form on the cached features.",
    "partial": "Trains the last eighth of the blocks, the layers after them, and the head.",
    "full": "Trains all parameters. For transformers and ConvNeXt the learning rate decays towards the input.",
    "lora": "Trains rank-8 matrices beside linear and ungrouped convolutional layers, and the head. Needs the extra `lora`.",
    "source-only": "Applies the head of the source domain unchanged: the baseline that the others must beat.",
    "coral": "Aligns mean and covariance of the source features with the target (Sun et al. 2016).",
    "reweight": "Weights source items by how much they resemble the target (Shimodaira 2000).",
    "label-shift": "Weights source items by the class shares estimated for the target (Saerens et al. 2002).",
    "deep-coral": "Trains all parameters and aligns the covariances of both domains (Sun & Saenko 2016).",
    "dann": "Trains against a domain classifier with gradient reversal (Ganin et al. 2016).",
    "cdan": "As `dann`, conditioned on the predictions, with entropy weighting (Long et al. 2018).",
    "mcc": "Minimizes class confusion of the predictions on the target (Jin et al. 2020).",
}
"""What each fine-tuning strategy does."""
