"""The remarks of the sanity look in words: what was seen, and what to do about it."""

from workbench.errors import plural
from workbench.report.words import listed
from workbench.results.remarks import Remark

ORDER = (
    "class names in another order would make {relabelled:.1%} of the {images:.0f} photos right, not "
    "{accuracy:.1%}: {why} ({names}): give `model.class_names` in the order of the network's outputs"
)
ORDERS = {
    "pairs": "photos of one class are taken for another, class by class",
    "alphabetical": "the network was trained with the names sorted, as folders are listed",
    "any_case": "the network was trained with the names sorted without regard to capitals",
    "numeric": "the network was trained with the names sorted by their numbers, 2 before 10",
    "reversed": "the network was trained with the names in reverse",
    "next": "each photo is taken for the class after its own, as where a class is missing from the names' "
    "beginning, or counting begins at 1",
    "previous": "each photo is taken for the class before its own",
}
INPUTS = {
    "narrow": "scaled twice, or `mean` and `std` are of 0 to 255: give them as fractions of 1",
    "wide": "pixels of 0 to 255; right only where the network was trained so, else give `mean` and `std` as "
    "fractions of 1",
    "far": "give `mean` and `std` of the training as fractions of 1",
    "unscaled": "pixels of 0 to 1 without a mean; give `preprocess.mean` and `std` if the training had them",
}
SHARED = (
    "{{images:.0f}} of {{total:.0f}} validation photos are in data.{part} too, {{same:.0f}} by content and "
    "{{alike:.0f}} by look ({{names}}): {remedy}"
)
SHOWN = 3
SAMPLED = ("contradictory", "shared_photos")  # their names are the first of `images`
TAKE_OUT = "take them out of one; `data.allow_overlap: true` certifies all the same"
ALLOWED = "certified all the same, as `data.allow_overlap` says"
SAYS: dict[tuple[str, str | None], str] = {
    ("not_finite", None): "{images:.0f} of {total:.0f} photos give NaN or infinity: check the weights, and "
    "`preprocess.mean` and `std`",
    ("outputs", "probabilities"): "the network ends in softmax: its probabilities are served as they are; "
    "cut the softmax off if clients want logits",
    ("outputs", "percentages"): "the network gives percentages: they are served as probabilities; cut the "
    "softmax off if clients want logits",
    ("outputs", "log_probabilities"): "the network ends in log-softmax: served confidences are its own, and "
    "nothing needs to be done",
    (
        "outputs",
        "sigmoid",
    ): "the network ends in a sigmoid (outputs of 0 to 1 that do not sum up to 1), and the "
    "confidence served would be softmax of that: return the logits",
    (
        "near_chance",
        None,
    ): "the baseline gets {right:.0f} of {images:.0f} photos right, no more than guessing "
    "({chance:.1%}): check the weights that were loaded, the order of `model.class_names` and `preprocess`",
    (
        "near_chance",
        "below",
    ): "the baseline gets {right:.0f} of {images:.0f} photos right, fewer than guessing "
    "({chance:.1%}): check the order of `model.class_names`, and that the class is the largest output",
    (
        "most_frequent",
        None,
    ): "the baseline gets {right:.0f} of {images:.0f} photos right, no more than always "
    "answering {names} ({frequent:.1%}); the mean over classes is {balanced:.1%}: check the weights and "
    "`preprocess`, or take validation photos of the other classes",
    ("one_class", None): "{share:.1%} of {images:.0f} photos are called {names}, which {true:.1%} are: check "
    "the weights that were loaded, and `preprocess`",
    ("never_predicted", None): "no photo is ever called {names}: check that the network was trained on it",
    (
        "confidence",
        "sure",
    ): "every confidence is above {low:.2f}, that of the {wrong:.0f} wrong answers too: a "
    "threshold will not find them; calibrate the network (temperature)",
    ("confidence", "uniform"): "no confidence is above {high:.2f}, though {accuracy:.1%} are right: it means "
    "nothing; return logits that are not normalised or scaled down",
    (
        "other_inputs",
        None,
    ): "{right:.0f} of {images:.0f} photos would be right with {names}, not {stated:.0f}: "
    "give `preprocess` as the network was trained",
    (
        "unstable",
        "again",
    ): "the network gives other answers for the same photo (outputs change by {change:.1%}): "
    "export it in eval mode, without dropout or noise",
    ("unstable", "batch"): "a photo's answer depends on the others in its batch (outputs change by "
    "{change:.1%}): export it in eval mode, so that BatchNorm takes its running statistics",
    (
        "training_mode",
        None,
    ): "the file was exported in training mode ({names}), where answers depend on chance "
    "or on the batch: export it again after `model.eval()`",
    (
        "contradictory",
        None,
    ): "{images:.0f} of {total:.0f} validation photos are in several classes ({names}): keep each in one",
    ("shared_photos", None): "{images:.0f} of {total:.0f} validation photos are in data.calibration too "
    "({names}): take them out of one",
    **{
        ("shared_photos", form): SHARED.format(part=form, remedy=TAKE_OUT)
        for form in ("calibration", "train")
    },
    **{
        ("shared_photos", f"{form}_allowed"): SHARED.format(part=form, remedy=ALLOWED)
        for form in ("calibration", "train")
    },
    (
        "copies",
        None,
    ): "{accuracy:.1%} are right, and {images:.0f} of {total:.0f} validation photos are copies of "
    "others: check that they are none of the training's",
    (
        "inputs",
        "stated",
    ): "`mean` or `std` is above 2 (mean {mean:.4g}, std {spread:.4g}): give both as fractions "
    "of 1, as of 0 to 255 they are divided by 255",
}


def sentence(remark: Remark) -> str:
    """One statement, with the remedy after a colon."""
    figures, names = remark.figures, listed(remark.names)
    if remark.kind in SAMPLED:
        names = ", ".join(remark.names[:SHOWN])
        if left := int(figures["images"]) - len(remark.names[:SHOWN]):
            names += f" and {left:,} more"
    if remark.kind == "no_photos":
        count = plural(int(figures["classes"]), "class")
        return (
            f"{count} of {figures['total']:.0f} without a photo in data.{remark.form} ({names}): add some, "
            "INT8 is not calibrated for them"
        )
    if remark.kind == "class_order":
        return ORDER.format(**figures, names=names, why=ORDERS[remark.form or "pairs"])
    if remark.kind == "inputs" and remark.form in INPUTS:
        seen = "the network's inputs have mean {mean:.3g} and spread {spread:.3g} ({low:.3g} to {high:.3g})"
        return f"{seen.format(**figures)}: {INPUTS[remark.form]}"
    return SAYS[remark.kind, remark.form].format(**figures, names=names)
