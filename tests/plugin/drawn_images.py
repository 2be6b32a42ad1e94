"""Drawn images in batches of OpenOOD's form, without OpenOOD."""

from torch.utils.data import DataLoader, Dataset

from openood_interneg.demo.world import FAR_KINDS, ID_KINDS, draw, image_rng
from openood_interneg.vlm.preprocess import Preprocess


class Images(Dataset):
    """Drawn images in batches of OpenOOD's form; counts what is read."""

    def __init__(self, count, name, *, ood=False, seed=0):
        self.name, self.count, self.reads = name, count, []
        kinds = FAR_KINDS["textures"] if ood else ID_KINDS
        self.imglist = [f"{name}/{i}.png {-1 if ood else i % 10}\n" for i in range(count)]
        transform = Preprocess(64).transform()
        self.images = [
            transform(draw(kinds[i % len(kinds)], image_rng(seed, "test", i))) for i in range(count)
        ]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        label = int(self.imglist[index].split()[1])
        image = self.images[index].clone()
        return {"data": image, "label": label, "image_name": f"{self.name}/{index}.png"}


def loader(dataset, batch_size=8):
    return DataLoader(dataset, batch_size=batch_size)
