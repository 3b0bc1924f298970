"""Models of timm: ``timm:resnet50.a1_in1k``, ``timm:hf-hub:org/name``, or an architecture with a weights file."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from selector.core.contracts import Encoder
from selector.core.documents import read_json
from selector.core.errors import SourceError, ZooError, did_you_mean
from selector.core.preprocess import Preprocess
from selector.sources import _hub, _index, _weights, source
from selector.sources._network import Network

if TYPE_CHECKING:
    from torch import nn

    from selector.sources._sketch import Sketch
    from selector.zoo import ModelSpec

_LIST = """
import json, timm
models, licenses = {}, {}
for name in timm.list_models(pretrained=True):
    cfg = timm.get_pretrained_cfg(name)
    models[name] = [cfg.hf_hub_id, cfg.hf_hub_filename, cfg.url if isinstance(cfg.url, str) else None]
    if cfg.license and cfg.license != "unknown":
        licenses[name] = cfg.license
defaults = {}
for name in timm.list_models():
    cfg = timm.get_pretrained_cfg(name)
    defaults[name] = cfg.tag if cfg is not None and cfg.has_weights else None
print(json.dumps({"models": models, "defaults": defaults, "licenses": licenses}))
"""

_HUB = "hf-hub:"
_FILES = ("model.safetensors", "pytorch_model.bin")
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

# settings of timm's factory that choose the weights, or that make another thing than a classifier
_RESERVED = frozenset(
    {
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn"),
        *("pretrained_model_args", "checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit"),
        *("features_only", "out_indices", "feature_cfg", "device", "dtype"),
    }
)

_INTERPOLATION = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic", "lanczos": "lanczos"}


@source("timm")
class TimmSource:
    """The ``timm:`` source."""

    def expand(self, pattern: str) -> list[str]:
        """Pretrained names (``arch.tag``) that match, in natural order; see ``contracts.Source``."""
        if not any(char in pattern for char in "*?["):
            return [pattern]
        if pattern.startswith(_HUB):
            raise ZooError(f"timm:{pattern}: a wildcard cannot list the hub; name the repository in full.")
        return _index.matching(pattern, _known()["models"], "timm")

    def license(self, spec: ModelSpec) -> str | None:
        """The license of the pretrained weights as timm states it; None where it states none."""
        if spec.weights is not None or spec.model_id.startswith(_HUB):
            return None
        found: str | None = _known()["licenses"].get(_tagged(spec.model_id))
        return found

    def repository(self, spec: ModelSpec) -> str | None:
        """The hub repository of the pretrained weights; None where they are not of the hub."""
        if spec.model_id.startswith(_HUB):
            return _hub.split_revision(spec.model_id.removeprefix(_HUB))[0]
        repo: str | None = _known()["models"].get(_tagged(spec.model_id), [None])[0]
        return repo

    def identify(self, spec: ModelSpec) -> dict[str, object]:
        """See ``contracts.Source``; asks the hub for a hash when the weights are not cached."""
        _weights.refuse_kwargs(spec.name, spec.kwargs, _RESERVED)
        identity: dict[str, object] = {"source": "timm", "model": spec.model_id, **_weights.settings_identity(spec)}
        if spec.model_id.startswith(_HUB):
            config = _config_file(spec)
            identity["config"] = config.content
        if spec.weights == "none":
            identity["weights"] = _weights.RANDOM_START
        elif spec.weights is not None:
            identity["weights"] = _weights.content_hash(spec.weights.path())
        elif spec.model_id.startswith(_HUB):
            identity["weights"] = _hub_file(spec).content
        else:
            identity["model"] = name = _full_name(spec)
            repo, _, url = _known()["models"][name]
            identity["weights"] = _hub_file(spec).content if repo else _hub.url_identity(url, spec.name)
        return identity | {"versions": _weights.versions("timm", "torch")}

    def load(self, spec: ModelSpec) -> Encoder:
        """See ``contracts.Source``."""
        from selector.sources._encoder import FeaturePath, make_encoder, run_quietly

        identity = self.identify(spec)
        network = _network(spec, str(identity["model"]))
        if spec.weights == "none":
            what = f"timm cannot build '{network.model}'"
            module = run_quietly(lambda: network.create(None), spec, what, network.settings)
        elif spec.weights is not None:
            module, network = _from_file(spec, network)
        else:
            file = _pretrained_file(spec)
            what = f"timm cannot load '{network.model}'"
            module = run_quietly(lambda: _pretrained(spec, network, file), spec, what, network.settings, [file])
        module, network, preprocess = _preprocess(spec, module, network)
        own_pooling = getattr(module, "global_pool", None)
        default = FeaturePath("head", pooling="cls" if own_pooling == "token" else "avg")
        return make_encoder(spec, network, module, preprocess, identity, default)

    def sketch(self, spec: ModelSpec) -> Sketch:
        """See ``_sketch``."""
        from selector.sources._encoder import run_quietly
        from selector.sources._sketch import image_sketch

        known = spec.weights is None and not spec.model_id.startswith(_HUB)
        network = _network(spec, _full_name(spec) if known else spec.model_id)

        what = f"timm cannot build '{network.model}'"
        return image_sketch(
            lambda: _preprocess(spec, run_quietly(lambda: network.create(None), spec, what), network), spec.name
        )

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """See ``contracts.Source``."""
        from selector.sources._encoder import build_headed

        return build_headed(TimmNetwork(recipe["model"], recipe["kwargs"], recipe.get("config")), recipe)


# ---------------------------------------------------------------------------- names


def _known() -> dict[str, Any]:
    return _index.index("timm", _LIST)


def _tagged(name: str) -> str:
    """With the default tag where none is given and there is one."""
    known = _known()
    default = known["defaults"].get(name)
    return f"{name}.{default}" if default and name not in known["models"] else name


def _full_name(spec: ModelSpec) -> str:
    """``arch.tag`` of a pretrained model; the default tag where none is given."""
    known = _known()
    name = spec.model_id
    if name in known["models"]:
        return name
    version = _weights.versions("timm")["timm"]
    architecture, _, tag = name.partition(".")
    if architecture not in known["defaults"]:
        near = did_you_mean(name, [*known["defaults"], *known["models"]])
        raise SourceError(f"{spec.name}: timm {version} has no model '{name}'{near or '; see timm.list_models()'}")
    if tag:
        tags = [n.partition(".")[2] for n in _index.natural(known["models"]) if n.partition(".")[0] == architecture]
        raise SourceError(
            f"{spec.name}: timm {version} has no weights '{tag}' for {architecture}{did_you_mean(tag, tags) or '.'} "
            f"Known: {', '.join(tags) or 'none'}."
        )
    if not known["defaults"][name]:
        raise SourceError(
            f"{spec.name}: timm {version} has no pretrained weights for {name}; give a file, or 'weights: none'."
        )
    return _tagged(name)


def _config_file(spec: ModelSpec) -> _hub.HubFile:
    repo, revision = _hub.split_revision(spec.model_id.removeprefix(_HUB))
    return _hub.find(repo, ["config.json"], revision, spec.name)


def _hub_file(spec: ModelSpec) -> _hub.HubFile:
    if spec.model_id.startswith(_HUB):
        repo, revision = _hub.split_revision(spec.model_id.removeprefix(_HUB))
        return _hub.find(repo, [*_FILES, *_OPEN_CLIP_FILES], revision, spec.name)
    repo, filename, _ = _known()["models"][_full_name(spec)]
    if filename is None:
        names = list(_FILES)
    else:  # as timm does: the safe format of the same file first
        names = [str(Path(filename).with_suffix(".safetensors")), filename]
        if filename == _OPEN_CLIP_FILES[1]:
            names.insert(0, _OPEN_CLIP_FILES[0])
    repo, revision = _hub.split_revision(repo)
    return _hub.find(repo, names, revision, spec.name)


def _hub_config(file: Path) -> tuple[str, dict[str, object], dict[str, object]]:
    """(architecture, pretrained configuration, arguments) of a model that was pushed to the hub."""
    try:
        data = read_json(file)
        architecture, arguments = data["architecture"], dict(data.get("model_args") or {})
        config = dict(data.get("pretrained_cfg") or data)
        if not isinstance(architecture, str):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SourceError(
            f"{file}: not the configuration of a timm model (no 'architecture'); models of other libraries are not read."
        ) from None
    if "num_classes" in data:
        config["num_classes"] = data["num_classes"]
    return architecture, _plain_config(config), arguments


_ORIGINS = frozenset({"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "label_names"})
"""Fields of timm's pretrained configuration that say where weights come from, and label names, which are not needed."""


def _plain_config(config: Mapping[str, object]) -> dict[str, object]:
    from timm.models import PretrainedCfg

    known = set(PretrainedCfg.__dataclass_fields__) - _ORIGINS
    return {key: value for key, value in config.items() if key in known}


# ---------------------------------------------------------------------------- building and loading


@dataclass(frozen=True)
class TimmNetwork(Network):
    """An architecture of timm; ``config`` is the pretrained configuration that came with it from the hub."""

    config: Mapping[str, object] | None = None
    source: ClassVar[str] = "timm"

    def create(self, num_classes: int | None, **more: object) -> nn.Module:
        """``timm.create_model`` of an architecture by its plain name, without weights unless ``more`` brings them.

        Raises:
            SourceError: a name that timm would look up elsewhere (``hf-hub:``, ``local-dir:``), or a setting that
                makes it fetch or load weights.
        """
        import timm

        _weights.refuse_kwargs(f"timm:{self.model}", self.kwargs, _RESERVED)
        if not re.fullmatch(r"[\w.-]+", self.model):
            raise SourceError(
                f"timm:{self.model}: expected the plain name of an architecture; weights come from the zoo entry."
            )
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.kwargs.items()} | more
        if num_classes is not None:
            settings["num_classes"] = num_classes
        if self.config is not None:
            settings["pretrained_cfg"] = _plain_config(self.config)
        return timm.create_model(self.model, **settings)

    @property
    def settings(self) -> dict[str, object]:
        """All that an entry or a repository says about it."""
        return {**(self.config or {}), **self.kwargs}

    def block_names(self, module: nn.Module) -> list[str]:
        """By timm's own grouping of parameters by depth, where the architecture has one."""
        from selector.sources._blocks import blocks_by_matcher

        group_matcher = getattr(module, "group_matcher", None)
        matcher = group_matcher(coarse=False) if callable(group_matcher) else None
        return blocks_by_matcher(module, matcher, self.classifier(module)) or super().block_names(module)

    def resized(self, module: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, TimmNetwork]:
        """With position embeddings and windows resampled, where the architecture can."""
        from selector.sources._encoder import seeded

        if not _fixed(module):
            return module, self
        reasons = []
        for setting in ({"img_size": list(size)}, {"strict_img_size": False}):
            network = replace(self, kwargs={**self.kwargs, **setting})
            try:
                with seeded():
                    changed: Any = network.create(None)
                if "img_size" in setting:
                    expected = {key: value.shape for key, value in changed.state_dict().items()}
                    changed = copy.deepcopy(module)
                    changed.set_input_size(img_size=size)
                    if {key: value.shape for key, value in changed.state_dict().items()} != expected:
                        raise SourceError("its windows would change")  # then the weights fit no plain architecture
                else:
                    changed.load_state_dict(module.state_dict())
                return changed.eval(), network
            except (SourceError, ValueError, RuntimeError, AssertionError, TypeError) as error:
                reasons.append(str(error).partition("\n")[0])
        raise SourceError("; ".join(reasons))

    def describe(self) -> dict[str, object]:
        """Plain JSON."""
        return super().describe() | ({"config": dict(self.config)} if self.config is not None else {})


def _fixed(module: object) -> bool:
    """Whether the network only takes the size that it was built for."""
    patches = getattr(module, "patch_embed", None)
    if getattr(module, "dynamic_img_size", False) or getattr(patches, "strict_img_size", True) is False:
        return False
    return hasattr(module, "set_input_size")


def _network(spec: ModelSpec, model: str) -> TimmNetwork:
    """The architecture of an entry; of one on the hub as its configuration says."""
    if not spec.model_id.startswith(_HUB):
        return TimmNetwork(model, spec.kwargs)
    architecture, config, arguments = _hub_config(_hub.fetch(_config_file(spec), spec.name))
    return TimmNetwork(architecture, {**arguments, **spec.kwargs}, config)


def _pretrained(spec: ModelSpec, network: TimmNetwork, file: Path) -> nn.Module:
    _weights.refuse_quantized(file, spec.name)
    # timm reads safetensors itself; of other formats it gets tensors that were read without running code
    weights: dict[str, object] = (
        {"file": str(file)} if file.suffix == ".safetensors" else {"state_dict": _weights.read_state_dict(file)}
    )
    # custom_load describes the original file of another library, not the hub's copy
    module: Any = network.create(None, pretrained=True, pretrained_cfg_overlay={**weights, "custom_load": False})
    for key in weights:
        module.pretrained_cfg.pop(key, None)
    return module  # type: ignore[no-any-return]


def _pretrained_file(spec: ModelSpec) -> Path:
    if not spec.model_id.startswith(_HUB):
        repo, _, url = _known()["models"][_full_name(spec)]
        if not repo:
            return _hub.fetch_url(url, spec.name)
    return _hub.fetch(_hub_file(spec), spec.name)


def _from_file(spec: ModelSpec, network: TimmNetwork) -> tuple[nn.Module, TimmNetwork]:
    """A network with the weights of a local file; the number of classes is taken from the file."""
    from selector.sources._encoder import run_quietly

    assert spec.weights is not None
    assert spec.weights != "none"
    path = spec.weights.path()
    what = f"timm cannot build '{network.model}'"
    module = run_quietly(lambda: network.create(None), spec, what, network.settings, [path])
    state = _weights.read_state_dict(path)
    head = network.classifier(module)
    if spec.weights.mapping == "by_name" and "num_classes" not in spec.kwargs and f"{head}.weight" in state:
        classes = len(state[f"{head}.weight"])
        if classes != len(module.state_dict()[f"{head}.weight"]):
            network = replace(network, kwargs={**network.kwargs, "num_classes": classes})
            module = run_quietly(lambda: network.create(None), spec, what, network.settings, [path])
    with_head = _weights.load_into(module, state, spec.weights.mapping, f"{spec.name}: {path}", head)
    if head and not with_head:  # a head without weights is noise: take it off
        network = replace(network, kwargs={**network.kwargs, "num_classes": 0})
        bare = run_quietly(lambda: network.create(None), spec, what)
        bare.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith(f"{head}.")})
        module = bare
    return module, network


def _preprocess(spec: ModelSpec, module: nn.Module, network: TimmNetwork) -> tuple[nn.Module, TimmNetwork, Preprocess]:
    """The model's own data configuration with the zoo's overrides; a fixed-size network follows the size."""
    import timm.data

    own: dict[str, Any] = timm.data.resolve_model_data_config(module)  # type: ignore[attr-defined, no-untyped-call]
    size = network.kwargs.get("img_size")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        own["input_size"] = (own["input_size"][0], height, width)
    preprocess = Preprocess(
        input_size=tuple(own["input_size"]),
        mean=tuple(own["mean"]),
        std=tuple(own["std"]),
        interpolation=_INTERPOLATION.get(own["interpolation"], "bicubic"),  # type: ignore[arg-type]
        crop_pct=float(own["crop_pct"]),
        crop_mode=own["crop_mode"],
    )
    wanted = preprocess.overridden(spec.preprocess.changes())
    if wanted.input_size[1:] != preprocess.input_size[1:]:
        try:
            module, network = network.resized(module, wanted.input_size[1:])
        except SourceError as error:
            raise SourceError(
                f"{spec.name}: preprocess.input_size {list(wanted.input_size)} does not fit the network: {error}"
            ) from error
    return module, network, wanted
