"""Which way a metric points, and how large it can be: known by name, or asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stockpot.errors import InputError

_HIGHER = (
    "accuracy acc acc_norm acc1 acc5 top1 top5 balanced_accuracy mean_accuracy id_accuracy "
    "f1 f1_score macro_f1 micro_f1 precision recall auc auroc roc_auc auprc ap map mean_ap iou "
    "miou dice em exact_match pass1 ndcg ndcg10 mrr r2 spearman pearson kendall mcc matthews kappa "
    "win_rate winrate main_score"
)
_HIGHER_UNBOUNDED = "bleu rouge rouge1 rouge2 rougel meteor chrf psnr elo"
_LOWER = "error error_rate err top1_error wer cer eer ece brier"
_LOWER_UNBOUNDED = (
    "perplexity ppl loss nll cross_entropy log_loss logloss bits_per_byte bpb bpc mae mse rmse "
    "mape smape mase nrmse wape wql crps quantile_loss fid kl deviance"
)
_SIGNED = re.compile("r2|spearman|pearson|kendall|mcc|matthews|kappa|mainscore")
_LEAST = 20.0


@dataclass(frozen=True)
class KnownMetric:
    """``lower``: whether less is better; ``share``: at most 1, or 100 per cent."""

    name: str
    lower: bool
    share: bool

    @property
    def signed(self) -> bool:
        """Whether it can be less than zero."""
        return bool(_SIGNED.search(re.sub(r"[^a-z0-9]", "", self.name.lower())))


_KNOWN = {
    name: KnownMetric(name, lower, share)
    for names, lower, share in (
        (_HIGHER, False, True),
        (_HIGHER_UNBOUNDED, False, False),
        (_LOWER, True, True),
        (_LOWER_UNBOUNDED, True, False),
    )
    for name in names.split()
}


def find_metric(name: str) -> KnownMetric | None:
    """The metric of this name, however it is written (``Top-1``, ``top_1``, ``Perplexity``)."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    found = next((m for known, m in _KNOWN.items() if known.replace("_", "") == plain), None)
    return found and KnownMetric(name, found.lower, found.share)


def metric_in(text: str) -> KnownMetric | None:
    """The metric that the last or the first part of a column's or a file's name says."""
    parts = [part for part in re.split(r"[\s_\-\[\]():/|@.]+", text) if part]
    if len(parts) < 2:
        return find_metric(text)
    for count in (2, 1):
        for some in (parts[-count:], parts[:count]):
            if len(some) < len(parts) and (found := find_metric("_".join(some))):
                return found
    return find_metric("_".join(parts))


def resolve(name: str, lower: bool | None, where: str) -> KnownMetric:
    """The metric ``name``; ``lower``: what the user says, None for nothing.

    Raises ``InputError`` naming ``where`` if neither the name nor the user says which way is up.
    """
    known = find_metric(name)
    if lower is None and known is None:
        raise InputError(
            f"{where}: nothing says whether more or less of '{name}' is better",
            hint="say it: --lower-is-better or --higher-is-better",
        )
    if lower is None:
        assert known is not None
        return known
    return KnownMetric(name, lower, known is not None and known.share)


def in_percent(largest: float) -> bool:
    """Whether shares up to ``largest`` are per cent rather than fractions."""
    return largest > _LEAST
