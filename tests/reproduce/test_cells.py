"""The settings of an experiment's cells."""

from openood_interneg.reproduce.cells import cell_settings, cells_of
from openood_interneg.reproduce.experiment_files import (
    list_experiments,
    load_experiment,
)


def test_every_setting_of_every_experiment_is_known(options):
    chosen = options(bench=None)
    for name in list_experiments():
        experiment = load_experiment(name)
        for cell in cells_of(experiment, chosen):
            if cell.point.corpus != "Common-20K":
                cell_settings(experiment, cell, chosen)


def test_paper_settings(options):
    chosen = options(bench=None, corpus=None)

    def of(name, **where):
        experiment = load_experiment(name)
        cells = [
            cell
            for cell in cells_of(experiment, chosen)
            if all(cell.coordinates[k] == v for k, v in where.items())
        ]
        return cell_settings(experiment, cells[0], chosen)

    main = of("table1", method="InterNeg")
    assert (main.num_negatives, main.bank_capacity, main.beta, main.groups) == (2000, 2000, 0.35, 5)
    assert of("table2", method="InterNeg", part="Near-OOD").groups == 1
    assert of("table5", method="InterNeg").num_negatives == 70_000
    assert of("table3", method="Intra SNT").bank == "none"
    assert of("table11", method="InterNeg", part="ImageNet-V2").images_per_class == 4
    assert of("figure3", method="AdaNeg").adaptive_gap is True
    assert of("table9", seed=3).seed == 3
