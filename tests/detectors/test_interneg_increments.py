"""InterNeg's incremental scores against full products."""

import pytest
import torch
import torch.nn.functional as F
from helpers import unit_rows

from openood_interneg.detectors.interneg import InterNeg
from openood_interneg.negatives.text_space import TextSpace
from openood_interneg.settings import InterNegSettings


class PlainSamples(InterNeg):
    """Algorithm 1 with every text laid out and multiplied anew for every admission."""

    def _update_samples(self, batch):
        features, ids, final = batch.features, batch.ids, batch.score.clone()
        for i in range(len(features)):
            if final[i] < self.settings.beta:
                rows, good, deviation = self._candidates(features[i : i + 1], ids[i : i + 1])
                if self.bank.offer(rows[good], deviation[good], ids[i : i + 1][good]):
                    self.bank.settle()
                    self._bank_changed()
                    final[i:] = self.score(features[i:]).score
        return final


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("capacity", [3, 12, 500])
def test_incremental_scores_equal_full_products(groups, capacity):
    labels = unit_rows(5, 16, 1)
    proxies = F.normalize(labels + 0.4 * unit_rows(5, 16, 2), dim=-1)
    space = TextSpace(
        labels=labels,
        logit_scale=10.0,
        negatives=unit_rows(21, 16, 3),
        proxies=proxies,
        base=(labels * proxies).sum(1),
    )
    settings = InterNegSettings(
        beta=0.6, bank_capacity=capacity, groups=groups, update="sample", seed=0
    )
    turn = torch.linalg.qr(unit_rows(16, 16, 9))[0]
    scores, banks = [], []
    for kind in (InterNeg, PlainSamples):
        detector = kind(settings, lambda h, ids: h @ turn).fit(space)
        features = unit_rows(200, 16, 4)
        parts = [detector.step(part).score for part in features.split(64)]
        scores.append(torch.cat(parts))
        banks.append(detector.bank)
    torch.testing.assert_close(scores[0], scores[1], atol=2e-6, rtol=0)
    torch.testing.assert_close(banks[0].features, banks[1].features, atol=1e-6, rtol=0)
    assert len(banks[0]) > 2 and banks[0].offered == banks[1].offered
