"""Spot rows of published tables, transcribed apart from the experiments' YAML files.

(experiment, row, column, {metric: figure}); every table of the paper is in it, and what is known of
TINS's.
"""

SPOTS = [
    ("table1", ("InterNeg",), "Average", {"AUROC": 97.43, "FPR@95": 14.04}),
    ("table1", ("MSP",), "iNaturalist", {"AUROC": 87.44, "FPR@95": 58.36}),
    ("table1", ("ViM",), "Textures", {"AUROC": 87.18, "FPR@95": 53.94}),
    ("table1", ("ZOC",), "Textures", {"AUROC": 76.46, "FPR@95": 98.90}),
    ("table1", ("NegLabel",), "SUN", {"AUROC": 95.49, "FPR@95": 20.53}),
    ("table1", ("CSP",), "Average", {"AUROC": 95.76, "FPR@95": 17.51}),
    ("table2", ("InterNeg",), "Near-OOD", {"AUROC": 82.20, "FPR@95": 65.43}),
    ("table2", ("InterNeg",), "Far-OOD", {"AUROC": 96.71, "FPR@95": 16.96}),
    ("table2", ("MCM",), "Far-OOD", {"AUROC": 84.77, "FPR@95": 68.54}),
    ("table2", ("ASH",), "Near-OOD", {"AUROC": 82.16, "FPR@95": None}),
    ("table3", ("Intra SNT",), "Average", {"AUROC": 94.21, "FPR@95": 25.40}),
    ("table3", ("Intra SNT + Inter ENT",), "Average", {"AUROC": 97.11, "FPR@95": 14.76}),
    ("table4", ("InterNeg",), "SSB-hard", {"AUROC": 80.24, "FPR@95": 69.96}),
    ("table4", ("InterNeg",), "OpenImage-O", {"AUROC": 93.69, "FPR@95": 32.30}),
    ("table5", ("AdaNeg",), "Near-OOD", {"AUROC": 84.60, "FPR@95": 59.07}),
    ("table5", ("InterNeg",), "Far-OOD", {"AUROC": 96.39, "FPR@95": 20.02}),
    ("table6", ("InterNeg",), "SVHN", {"AUROC": 99.41, "FPR@95": 3.23}),
    ("table7", ("NegLabel",), "Far-OOD", {"AUROC": 98.39, "FPR@95": 6.60}),
    ("table7", ("InterNeg",), "Near-OOD", {"AUROC": 95.13, "FPR@95": 23.93}),
    ("table8", ("InterNeg",), "Places365", {"AUROC": 97.61, "FPR@95": 9.89}),
    ("table9", ("Four-OOD",), "4", {"AUROC": 97.51}),
    ("table9", ("Near-OOD",), "Mean", {"AUROC": 82.03}),
    ("table9", ("Near-OOD",), "Std", {"AUROC": 0.46}),
    ("table10", ("RN50", "InterNeg"), "Average", {"AUROC": 96.92, "FPR@95": 17.22}),
    ("table10", ("ViT-L/14", "CSP"), "Places", {"AUROC": 93.58, "FPR@95": 28.41}),
    ("table11", ("ImageNet-V2", "InterNeg"), "Average", {"AUROC": 96.96, "FPR@95": 18.18}),
    ("table11", ("ImageNet", "NegLabel"), "Average", {"AUROC": 93.08, "FPR@95": 29.77}),
    ("table12", ("InterNeg",), "Textures", {"seconds": 0.0113}),
    ("table12", ("AdaNeg",), "Mean", {"seconds": 0.0058}),
    ("table13", ("Common-20K", "CSP"), "Average", {"AUROC": 92.06, "FPR@95": 36.56}),
    ("table13", ("Part-of-Speech", "InterNeg"), "Average", {"AUROC": 95.98, "FPR@95": 18.41}),
    ("newer_imagenet", ("TINS",), "Average", {"AUROC": None, "FPR@95": 6.72}),
    ("newer_cifar10", ("TINS",), "Near-OOD", {"AUROC": 95.53, "FPR@95": None}),
    ("newer_cifar10", ("TINS",), "Far-OOD", {"AUROC": 99.53, "FPR@95": None}),
]

# Numbers that each table prints, dashes aside.
COUNTS = {
    "table1": 26 * 10,
    "table2": 5 * 2 + 5 * 4,
    "table3": 12,
    "table4": 14,
    "table5": 4 * 2 + 4 * 4,
    "table6": 16,
    "table7": 3 * 2 + 4 * 4,
    "table8": 16,
    "table9": 14,
    "table10": 20 * 10,
    "table11": 12,
    "table12": 10,
    "table13": 8 + 16,  # WordNet's rows stand in Table 1
}

# Columns whose figure is the mean of others, as a check of the transcription.
MEANS = {
    "table1": ("Average", ("iNaturalist", "SUN", "Places", "Textures")),
    "table10": ("Average", ("iNaturalist", "SUN", "Places", "Textures")),
    "table4": ("Far mean", ("iNaturalist", "Textures", "OpenImage-O")),
    "table6": ("Far mean", ("MNIST", "SVHN", "Texture", "Places365")),
    "table8": ("Far mean", ("MNIST", "SVHN", "Texture", "Places365")),
}
