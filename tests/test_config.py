"""The recipe: what composes, what is refused, and how runs are named."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medseg import config, defaults, naming, signature


def test_an_argument_of_the_constructor_needs_no_plus() -> None:
    cfg = config.compose("train", ["experiment=unet_spine", "model.max_width=64"])
    assert cfg.model.max_width == 64
    config.check_signature(cfg.model, "model", given=["in_channels", "n_classes"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.widht=8", "did you mean 'width'"),
        ("model.width=abc", "wants int"),
        ("model.width=8.5", "wants int"),
        ("model.width=null", "wants int"),
        ("optimizer.lr=abc", "wants float"),
        ("optimizer.betas=[0.9]", "betas"),
        ("task.loss=cross", "dice_ce"),
        ("augment.transforms.noise.sigma=loud", "wants float"),
        ("augment.transforms.noise.sgima=1", "did you mean 'sigma'"),
        ("schedule.warmup=[1]", "wants float"),
        ("augment.transforms.nois.foo=4", "did you mean 'noise'"),
        ("augment.transforms.noise=null", "no class"),
        ("seed=abc", "seed=abc must be a whole number"),
        ("trainer.precision=bf16-mixd", "did you mean 'bf16-mixed'"),
        ("trainer.accelerator=foo", "not one of auto, cpu"),
    ],
)
def test_an_override_that_does_not_fit_the_constructor_is_refused(override: str, says: str) -> None:
    from medseg.stages.train import check_recipe

    cfg = config.compose("train", ["experiment=unet_spine", override])
    with pytest.raises(ValueError, match=says):
        check_recipe(cfg)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainer.max_epochs=abc", "Integer"),
        ("trainer.max_epoch=3", "max_epoch"),
        ("data.spacing_mm=[a,1,1]", "Float"),
        ("data.channels=fat", "channels"),
        ("modle.width=3", "modle"),
        ("experiment=typo", "Could not find 'experiment/typo' .*experiment has: .*ivdnet_2018, "),
        ("experiment=ivdnet_spin", "did you mean 'ivdnet_spine'"),
        ("model=ivdnt", "did you mean 'ivdnet'"),
    ],
)
def test_what_hydra_can_judge_fails_while_composing(override: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config.compose("train", [override])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainer.max_epoch=3", "did you mean 'trainer.max_epochs'.*trainer has: max_epochs"),
        ("+trainer.max_epoch=3", "did you mean 'trainer.max_epochs'"),
        ("data.sources=4", "did you mean 'data.source'"),
        ("+data.sources=4", "did you mean 'data.source'"),
        ("modle.width=3", "did you mean 'model'"),
        ("+foo=4", "'foo' is no key of the recipe .*a recipe has: model"),
        ("data.spacing_mm=1", "data.spacing_mm wants list"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_and_without_a_plus(
    override: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        config.compose("train", [override])
    assert "To append" not in str(caught.value)
    if "data" in override:
        with pytest.raises(ValueError, match=says):
            config.compose("prepare", [override])


def test_a_plus_may_stand_where_no_key_is_new_and_for_a_value_that_others_refer_to() -> None:
    cfg = config.compose("train", ["++trainer.max_epochs=3", "+data.source.n_train=2"])
    assert (cfg.trainer.max_epochs, cfg.data.source.n_train) == (3, 2)
    assert config.compose("train", ["+size=8", "+model.width=${size}"]).model.width == 8


def test_a_suggested_command_survives_the_shell(tmp_path: Path) -> None:
    labels = "data.labels={disc:[1,2]}"
    cfg = config.compose("train", ["data=table", labels, "data.channels=[a]"])
    (tmp_path / "file").touch()
    line = config.prepare_command(cfg, tmp_path / "file", config_dirs=[tmp_path])
    words = shlex.split(line)
    assert labels in words
    assert "'" + labels + "'" in line
    assert words[words.index("--config-dir") + 1] == str(tmp_path)
    assert words[-1] == str(config.default_prepared(cfg))


def test_no_experiment_is_optional() -> None:
    for path in config.conf_dir().rglob("*.yaml"):
        assert "optional" not in path.read_text().split("defaults:")[-1].split("\n\n")[0], path


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "medseg.config.os.system",
        "medseg.provenance.json.loads",
        "torch.load",
        "torch.nn.modules.module.torch.load",
        "torch.hub.load",
        "builtins.eval",
        "medseg.config",
        "medsegevil.run",
    ],
)
def test_a_target_outside_the_allow_list_is_refused_by_any_name(target: str) -> None:
    with pytest.raises(ValueError, match="not admitted"):
        config.build({"_target_": target, "_args_": ["true"]})
    with pytest.raises(ValueError, match="not admitted"):
        config.check_signature(
            {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": target}]}
        )


def test_a_misspelt_class_gets_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean 'UNet'"):
        config.build({"_target_": "medseg.models.unet.Unet"})


def test_build_makes_inner_objects_first_and_partials_on_request() -> None:
    node = {
        "_target_": "torch.nn.Sequential",
        "_args_": [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}],
    }
    built = config.build(node)
    assert isinstance(built[0], torch.nn.Linear)
    optimizer = config.build({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5})
    assert optimizer(built.parameters()).param_groups[0]["lr"] == 0.5


def test_missing_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="out_features"):
        config.check_signature({"_target_": "torch.nn.Linear", "in_features": 2})


def test_a_word_does_not_pass_for_a_tensor_but_a_number_does_for_a_float() -> None:
    assert not signature.matches("abc", float | torch.Tensor)
    assert signature.matches(1, float | torch.Tensor)
    assert signature.matches([1, 2], tuple[int, int])
    assert not signature.matches([1, 2, 3], tuple[int, int])
    assert not signature.matches(True, int)
    assert signature.matches(None, int | None)


def test_variant_is_base_or_sorted_overrides_without_what_names_the_folder() -> None:
    assert config.variant(["experiment=a", "seed=3", "hydra.verbose=true"]) == "base"
    assert (
        config.variant(["trainer.max_epochs=1", "model.width=8"])
        == "model.width=8,trainer.max_epochs=1"
    )
    assert config.variant(["model.width=4", "model.width=8"]) == "model.width=8"
    assert config.variant(["+model.width=8"]) == config.variant(["model.width=8"])


def test_variant_is_a_file_name_whatever_the_overrides_are() -> None:
    long = [f"model.argument{n}={n}" for n in range(9)]
    names = {config.variant(o) for o in (long, long[:8], ["a=x/y"], ["a=x:y"], ["a=[1,2]"])}
    assert len(names) == 5
    assert all(len(name) <= 60 and "/" not in name and ":" not in name for name in names)


def test_fingerprint_changes_with_the_recipe_and_not_with_the_machine() -> None:
    def of(*overrides: str, groups: tuple[str, ...] = ()) -> str:
        recipe = config.compose("train", ["experiment=unet_spine", *overrides])
        return config.recipe_fingerprint(recipe, groups)

    assert of() == of("trainer.devices=2", "trainer.threads=3", "trainer.accelerator=cpu")
    assert of() != of("model.width=5")
    assert of(groups=("data",)) == of("model.width=5", groups=("data",))


@pytest.mark.parametrize(
    "written",
    [
        "model.max_width=512",
        "model.in_channels=4",
        "task.loss=dice_ce",
        "schedule.warmup=0.05",
        "augment.transforms.noise.chance=0.3",
        "data.source.n_train=16",
    ],
)
def test_a_default_written_out_changes_no_fingerprint(written: str) -> None:
    bare, full = (
        config.compose("train", ["experiment=unet_spine", *more]) for more in ([], [written])
    )
    assert config.plain(bare) != config.plain(full)
    assert config.recipe_fingerprint(bare) == config.recipe_fingerprint(full)
    assert config.data_fingerprint(bare) == config.data_fingerprint(full)


@pytest.mark.parametrize(
    ("file", "number", "changed"),
    [
        ("models/ivdnet.py", ('history: str = "maxpool"', 'history: str = "crop"'), "ivdnet"),
        ("models/unet.py", ("max_width: int = 512", "max_width: int = 256"), "unet"),
        ("nn/blocks/residual.py", ("kernel: int = 3", "kernel: int = 5"), "unet"),
    ],
)
def test_a_constructors_default_is_part_of_the_recipe_that_names_it(
    file: str, number: tuple[str, str], changed: str, tmp_path: Path, monkeypatch
) -> None:
    shutil.copytree(defaults.PACKAGE, tmp_path / "medseg", ignore=shutil.ignore_patterns("*.pyc"))
    recipes = {
        "ivdnet": config.compose("train", ["model=ivdnet"]),
        "unet": config.compose("train", ["model=unet", "block=residual"]),
    }
    before = {name: config.recipe_fingerprint(recipe) for name, recipe in recipes.items()}
    source = tmp_path / "medseg" / file
    assert number[0] in source.read_text()
    source.write_text(source.read_text().replace(*number))
    monkeypatch.setattr(defaults, "PACKAGE", tmp_path / "medseg")
    after = {name: config.recipe_fingerprint(recipe) for name, recipe in recipes.items()}
    assert [name for name in recipes if before[name] != after[name]] == [changed]


def test_prepared_variant_is_how_the_data_section_differs() -> None:
    spine = config.compose("train", ["experiment=unet_spine", "data.folds=5", "data.fold=1"])
    assert config.default_prepared(spine) == Path("data/prepared/spine/base")
    changed = config.compose("train", ["data.spacing_mm=[1,null,2]", "data.source.n_train=3"])
    assert config.prepare_overrides(changed) == [
        "data.source.n_train=3",
        "data.spacing_mm=[1.0,null,2.0]",
    ]
    again = config.compose("prepare", ["data=spine", *config.prepare_overrides(changed)])
    assert config.data_fingerprint(again) == config.data_fingerprint(changed)
    assert config.prepared_variant(again) == config.prepared_variant(changed)


def test_prepare_overrides_survive_hydras_grammar() -> None:
    label = "data.labels={my disc:[1,2]}"
    changed = config.compose("train", ["data=table", label, "data.channels=[t1,'a,b',\"it's\"]"])
    again = config.compose("prepare", ["data=table", *config.prepare_overrides(changed)])
    assert config.plain(again.data) == config.plain(changed.data)


def test_network_spec_names_stems_only() -> None:
    cfg = config.compose("train", ["model=unet", "block=residual", "model.width=8"])
    assert config.network_spec(cfg.model) == {
        "name": "unet",
        "class": "UNet",
        "arguments": {
            "block": {"block": "residual", "class": "Residual", "arguments": {}},
            "width": 8,
        },
    }
    assert config.task_spec(cfg.task) == {
        "name": "segment",
        "class": "Segment",
        "arguments": {"loss": "dice_ce", "clean_up": "auto"},
    }
    chosen = {"_target_": "medseg.losses.dice_ce", "_partial_": True, "batch": False}
    task = {**config.plain(cfg.task), "loss": chosen}
    loss = {"class": "dice_ce", "arguments": {"batch": False}}
    assert config.task_spec(task)["arguments"]["loss"] == loss
    with pytest.raises(ValueError, match="cannot stand in a model file"):
        config.network_spec({"_target_": "torch.nn.Linear"})


def test_options_and_overrides_may_stand_in_any_order() -> None:
    line = ["experiment=a", "-m", "model.width=1,2", "--config-dir", "x=y", "--info", "seed=1"]
    flags, overrides = naming.parted(line)
    assert flags == ["-m", "--config-dir", "x=y", "--info"]
    assert overrides == ["experiment=a", "model.width=1,2", "seed=1"]


def test_a_users_own_folder_adds_experiments(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /model: unet\nmodel:\n  width: 3\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    assert config.compose("train", ["experiment=mine"], config_dirs=[tmp_path]).model.width == 3


def test_config_imports_neither_torch_nor_hydra() -> None:
    code = "import sys, medseg.config; print({'torch', 'hydra', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
