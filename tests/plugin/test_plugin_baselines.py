"""OpenOOD's own methods on a zero-shot CLIP: each runs, or says why it does not."""

import numpy as np
import pytest
import torch
from openood_standin import CLASSES, REAL_MISSING, needs_openood
from real_openood import INDEX, evaluator_of, image_loader

pytestmark = [needs_openood, pytest.mark.usefixtures("cifar10_names")]

if REAL_MISSING is None:
    from openood_interneg.evaluation.protocols import FeatureSet
    from openood_interneg.plugin.baseline_table import BASELINES, BaselineError
    from openood_interneg.plugin.baselines import run_baseline
    from openood_interneg.plugin.network import ClipZeroShot
    from openood_interneg.plugin.postprocessors import MCMPostprocessor
    from openood_interneg.plugin.register import config_root

PACKAGED = [b.name for b in BASELINES.values() if b.package] if REAL_MISSING is None else []


RUN_ANYWHERE = [b.name for b in BASELINES.values() if b.verdict != "refused" and not b.package] if (
    REAL_MISSING is None
) else []  # fmt: skip


@pytest.fixture(scope="module")
def sets(net, root):
    made = MCMPostprocessor()
    names = ("train_cifar10", "val_cifar10", "test_cifar10", "test_tin")
    return {n: made.feature_set(net, image_loader(root, net, n), n, progress=False) for n in names}


def test_at_least_fifteen_run_anywhere():
    assert len(RUN_ANYWHERE) >= 15
    from openood.evaluation_api.postprocessor import postprocessors

    ours_too = {name for name, cls in postprocessors.items() if hasattr(cls, "method")}
    assert set(BASELINES) - {"rts"} <= set(postprocessors)
    assert set(postprocessors) - ours_too <= set(BASELINES)  # a verdict for every one of theirs


@pytest.mark.parametrize("name", RUN_ANYWHERE)
def test_builtin_runs(net, root, sets, name):
    row = BASELINES[name]
    train, val, test, tin = sets.values()
    if row.pixels:
        with pytest.raises(BaselineError, match="loaders of images"):
            run_baseline(name, net, train, val, test, {"tin": tin})
        test, tin = (image_loader(root, net, n) for n in ("test_cifar10", "test_tin"))
    try:
        out = run_baseline(name, net, train, val, test, {"tin": tin})
    except BaselineError as error:  # a class without a correct training image
        assert name == "she" and "correctly predicted" in str(error)
        return
    pred, conf, label = out["id"]
    assert pred.shape == conf.shape == label.shape == (37,) and set(out["tin"][2]) == {-1}
    assert np.isfinite(conf).all() and np.isfinite(out["tin"][1]).all() and conf.std() > 0
    assert (label == np.arange(37) % 10).all() and pred.min() >= 0


@pytest.mark.parametrize("name", PACKAGED)
def test_builtin_with_an_optional_package(net, root, sets, name):
    train, val, test, tin = sets.values()
    if BASELINES[name].pixels:
        val, test, tin = (
            image_loader(root, net, n) for n in ("val_cifar10", "test_cifar10", "test_tin")
        )
    try:
        __import__(BASELINES[name].package)
    except ImportError:
        with pytest.raises(BaselineError, match="pip install"):
            run_baseline(name, net, train, val, test, {"tin": tin})
        return
    assert np.isfinite(run_baseline(name, net, train, val, test, {"tin": tin})["id"][1]).all()


@pytest.mark.parametrize("name", ["dropout", "gram", "ssd", "opengan"])
def test_builtin_is_refused_with_its_reason(net, root, sets, name):
    train, val, test, tin = sets.values()
    reason = BASELINES[name].note[:20]
    with pytest.raises(BaselineError, match=reason):
        run_baseline(name, net, train, val, test, {"tin": tin})
    with pytest.raises(BaselineError, match=reason):
        evaluator_of(net, root, postprocessor_name=name)
    with pytest.raises(BaselineError, match="no postprocessor"):
        run_baseline("nonsense", net, train, val, test, {})


def test_missing_package_is_a_reason_in_the_evaluator(net, root):
    try:
        import faiss  # noqa: F401
    except ImportError:
        with pytest.raises(BaselineError, match="pip install faiss-cpu"):
            evaluator_of(net, root, postprocessor_name="knn").eval_ood(progress=False)
    try:
        import statsmodels  # noqa: F401
    except ImportError:
        with pytest.raises(BaselineError, match="pip install statsmodels"):
            evaluator_of(net, root, postprocessor_name="adascale_a")


def test_builtins_that_cannot_be_fitted(net, sets):
    _, val, test, tin = sets.values()
    with pytest.raises(BaselineError, match="ID train images"):
        run_baseline("mds", net, None, val, test, {"tin": tin})
    one_class = FeatureSet("one", val.features, val.ids, np.zeros(20, int))
    with pytest.raises(BaselineError, match="NaN or infinity"):
        run_baseline("mds", net, one_class, val, test, {"tin": tin})
    twins = ClipZeroShot(net.clip, (*CLASSES[:9], CLASSES[0]))
    with pytest.raises(BaselineError, match="same text"):
        run_baseline("fdbd", twins, val, val, test, {"tin": tin})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["msp", "vim", "react", "odin", "klm"])
def test_builtin_by_name_gives_the_same_scores(net, root, sets, name):
    evaluator = evaluator_of(net, root, postprocessor_name=name, config_root=config_root())
    table = evaluator.eval_ood(progress=False)
    assert list(table.index) == INDEX and np.isfinite(table.to_numpy()).all()
    train, val, test, tin = sets.values()
    if BASELINES[name].pixels:
        test, tin = (image_loader(root, net, n) for n in ("test_cifar10", "test_tin"))
    # vim is fitted to the whole training set in both
    out = run_baseline(name, net, train, val, test, {"tin": tin}, batch_size=8)
    np.testing.assert_allclose(
        evaluator.scores["ood"]["near"]["tin"][1], out["tin"][1], rtol=1e-3, atol=1e-4
    )
    in_order = evaluator_of(net, root, postprocessor_name=name, protocol="openood")
    np.testing.assert_allclose(in_order.eval_ood(progress=False), table, atol=1e-6)


def test_pixels_are_untouched_by_what_methods_write(net, sets):
    before = sets["test_tin"].features.clone()
    for name in ("ash", "scale", "relation"):
        run_baseline(name, net, *list(sets.values())[:3], {"tin": sets["test_tin"]})
    assert torch.equal(sets["test_tin"].features, before)
