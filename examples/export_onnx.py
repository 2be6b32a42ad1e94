"""python examples/export_onnx.py detector.safetensors detector.onnx: pixels in, label, score out"""

import json
import os
import sys

import onnx
import onnxruntime
import torch

from openood_interneg import OODDetector, get_method
from openood_interneg.detectors.grouped import GroupedDetector
from openood_interneg.detectors.scoring import group_order, grouped_score, logits


class Static(torch.nn.Module):
    def __init__(self, detector):
        super().__init__()
        self.model, self.encode = detector.backbone.model, detector.backbone.image_features
        # InterNeg without its bank is NegLabel's formula on its own texts.
        same = {"interneg_negatives_only": get_method("neglabel")}
        method = same.get(detector.method.name, detector.method)
        self.head = method.make(detector.settings).fit(detector.space)
        if isinstance(self.head, GroupedDetector):
            order = group_order(len(detector.space.negatives), detector.settings.groups)
            self.negatives = detector.space.negatives[order]

    def forward(self, pixels):
        features, space, settings = self.encode(pixels), self.head.space, self.head.settings
        if not isinstance(self.head, GroupedDetector):
            return tuple(self.head.step(features))
        # Its own step sums up in blocks of images, and a traced file has no loop over them.
        labels, negatives = (
            logits(features, texts, space.logit_scale, settings.tau)
            for texts in (space.labels, self.negatives)
        )
        return labels.argmax(dim=1), grouped_score(labels, negatives, settings.groups)


def export(detector, path):
    if detector.method.state or detector.encoder.kind != "image":
        sys.exit(f"{detector.method.title} scores by more than one image's feature; take another")
    part, pixels = f"{path}.part", torch.rand(3, 3, *[detector.preprocess.size] * 2)
    names = {"input_names": ["pixels"], "output_names": ["label", "score"], "dynamo": False}
    names["dynamic_axes"] = {name: {0: "batch"} for name in ("pixels", "label", "score")}
    torch.onnx.export(Static(detector).eval(), (pixels[:2],), part, **names)
    model, facts = onnx.load(part), {"classes": detector.class_names, "gamma": detector.gamma}
    facts["preprocess"] = detector.preprocess.key()
    onnx.helper.set_model_props(model, {name: json.dumps(fact) for name, fact in facts.items()})
    onnx.save(model, part)
    expected = detector.score_features(detector.encoder.features(pixels), update=False).score
    score = onnxruntime.InferenceSession(part).run(["score"], {"pixels": pixels.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(score), expected, atol=1e-4, rtol=1e-5)
    os.replace(part, path)  # not before it was seen to be right


if __name__ == "__main__":
    export(OODDetector.load(sys.argv[1], device="cpu"), sys.argv[2])
