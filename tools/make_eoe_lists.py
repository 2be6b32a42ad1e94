"""Write the outlier labels that EOE uses here, by rule, out of WordNet 3.0.

    python tools/make_eoe_lists.py            (needs NLTK with its WordNet, timm and open_clip)

The rule is in openood_interneg/detectors/data/README.txt. The same WordNet gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise, zip_longest
from pathlib import Path

import timm
from nltk.corpus import wordnet

from openood_interneg.data.classnames import class_names

LISTS = Path(__file__).resolve().parents[1] / "openood_interneg" / "detectors" / "data"
KINDS = ["animal", "plant", "food", "artifact", "object"]  # lexicographer files: visible things
UNSEEN = ["particle.n.02", "molecule.n.01", "microorganism.n.01", "body_part.n.01"]  # but these
AVOIDED = {"bitch", "gypsy", "kaffir", "squaw", "whorehouse"}  # terms of abuse, though in WordNet
LIMIT = 500  # far and fine; near: NEAR_EACH per class
NEAR_EACH = 3
FAR_STEPS, FAR_DEPTH = 2, 6  # the first ancestor that a far label shares with a class is so far
# up from the label and this deep below WordNet's root at most ("animal" is 6, "artifact" 4 deep)
WORD = re.compile(r"[a-z]+([ -][a-z]+){0,2}")

# Synsets of the CIFAR classes where `<name>.n.01` is not the one that is meant.
SENSES = {
    "aquarium fish": "goldfish.n.01", "automobile": "car.n.01", "beaver": "beaver.n.07",
    "boy": "male_child.n.01", "castle": "castle.n.02", "cloud": "cloud.n.02",
    "couch": "sofa.n.01", "dolphin": "dolphin.n.02", "flatfish": "flatfish.n.02",
    "forest": "forest.n.02", "girl": "female_child.n.01", "leopard": "leopard.n.02",
    "lobster": "lobster.n.02", "maple tree": "maple.n.02", "oak tree": "oak.n.02",
    "otter": "otter.n.02", "palm tree": "palm.n.03", "pickup truck": "pickup.n.01",
    "pine tree": "pine.n.01", "plate": "plate.n.04", "possum": "opossum.n.02",
    "raccoon": "raccoon.n.02", "ray": "ray.n.07", "seal": "seal.n.09", "shrew": "shrew.n.02",
    "skunk": "skunk.n.04", "sweet pepper": "sweet_pepper.n.02", "table": "table.n.02",
    "television": "television_receiver.n.01", "tiger": "tiger.n.02", "trout": "trout.n.02",
    "turtle": "turtle.n.02", "whale": "whale.n.02", "willow tree": "willow.n.01",
}  # fmt: skip


def id_synsets(benchmark: str) -> list:
    """The WordNet synset of every class, in label order."""
    if benchmark == "imagenet":  # its labels are WordNet's own numbers
        listing = Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt"
        return [
            wordnet.synset_from_pos_and_offset("n", int(number[1:]))
            for number in listing.read_text().split()
        ]
    names = class_names(benchmark)
    return [wordnet.synset(SENSES.get(n, f"{n.replace(' ', '_')}.n.01")) for n in names]


@cache
def unseen() -> frozenset:
    """What no photograph shows, or not on its own."""
    return frozenset().union(*(below(wordnet.synset(name)) for name in UNSEEN))


@cache
def label(synset) -> str | None:
    """The name by which a synset may be a label, or None: a short common noun, first sense."""
    lemma = synset.lemmas()[0]
    name = lemma.name().replace("_", " ")
    if not WORD.fullmatch(name) or synset.instance_hypernyms() or AVOIDED & {*name.split()}:
        return None
    if synset.lexname().removeprefix("noun.") not in KINDS or synset in unseen():
        return None
    return name if wordnet.synsets(lemma.name(), "n")[0] == synset else None


def frequency(synset) -> tuple:
    """Sorts the more common first, by WordNet's own counts; then alphabetically."""
    return -sum(lemma.count() for lemma in synset.lemmas()), synset.name()


@cache
def below(synset) -> frozenset:
    """A synset with everything under it."""
    return frozenset([synset, *synset.closure(lambda s: s.hyponyms())])


@cache
def above(synset) -> tuple[frozenset, ...]:
    """Ancestors by steps up: first the synset itself, then its hypernyms, and so on."""
    levels, now = [], {synset}
    while now:
        levels.append(frozenset(now))
        now = {parent for s in now for parent in s.hypernyms()}
    return tuple(levels)


class Lists:
    """Outlier labels for one set of classes."""

    def __init__(self, benchmark: str):
        self.classes = id_synsets(benchmark)
        names = [n.lower() for n in class_names(benchmark)]
        lemmas = [n.replace("_", " ").lower() for s in self.classes for n in s.lemma_names()]
        self.names = {*names, *lemmas}
        self.related = {s for c in self.classes for level in above(c) for s in level}
        self.ancestors = frozenset(self.related)
        self.related |= {s for c in self.classes for s in below(c)}

    def usable(self, synsets: Iterable) -> list:
        """Those that can be labels and are no class, above or below one; common ones first."""
        kept = [s for s in synsets if s not in self.related and label(s)]
        return sorted((s for s in kept if label(s) not in self.names), key=frequency)

    def fine(self) -> list[str]:
        """Other members of the classes' own types: what is under a class's hypernym."""
        return take(round_robin(self.sisters(c) for c in self.classes), LIMIT)

    def sisters(self, synset) -> list:
        return self.usable({s for parent in synset.hypernyms() for s in below(parent)})

    def near(self) -> list[str]:
        """Per class its closest relatives of another type: cousins, then further up."""
        chosen: list[str] = []
        for synset in self.classes:
            chosen += take(self.cousins(synset), NEAR_EACH, without=chosen)
        return chosen

    def cousins(self, synset) -> Iterator:
        levels = above(synset)
        for inner, outer in pairwise(levels[1:]):
            own = frozenset().union(*map(below, inner))
            yield from self.usable(frozenset().union(*map(below, outer)) - own)

    def far(self) -> list[str]:
        """Common things that are no kind of what the classes are, kinds in turn."""
        common = [s for s in wordnet.all_synsets("n") if label(s) and frequency(s)[0] < 0]
        distant = [s for s in common if self.is_distant(s)]
        kinds = [[s for s in distant if s.lexname() == f"noun.{kind}"] for kind in KINDS]
        return take(round_robin(map(self.usable, kinds)), LIMIT)

    def is_distant(self, synset) -> bool:
        """Whether every ancestor it shares with a class is far up and unspecific."""
        for steps, level in enumerate(above(synset)):
            shared = level & self.ancestors
            if shared:
                return steps >= FAR_STEPS and all(s.min_depth() <= FAR_DEPTH for s in shared)
        return True


def round_robin(lists: Iterable[list]) -> Iterator:
    """The first of each list, then the second of each, and so on."""
    for row in zip_longest(*lists):
        yield from (synset for synset in row if synset is not None)


def take(synsets: Iterable, limit: int, without: Iterable[str] = ()) -> list[str]:
    """The first `limit` distinct labels."""
    seen, out = set(without), []
    for synset in synsets:
        if len(out) == limit:
            break
        if label(synset) not in seen:
            seen.add(label(synset))
            out.append(label(synset))
    return out


def main() -> None:
    """Write nine files."""
    for benchmark in ("cifar10", "cifar100", "imagenet"):
        lists = Lists(benchmark)
        for kind in ("far", "near", "fine"):
            labels = getattr(lists, kind)()
            path = LISTS / f"eoe_{benchmark}_{kind}.txt"
            path.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
            print(f"{path.name}: {len(labels)}")


if __name__ == "__main__":
    main()
