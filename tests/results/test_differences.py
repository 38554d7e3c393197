from tests.builders import MACHINE, run_info
from workbench.results.differences import RunDifference, differences_of
from workbench.results.records import Budget


def test_only_what_differs_is_named_the_machine_first() -> None:
    other = MACHINE.model_copy(update={"cpu": "Another CPU", "cores": 2, "features": ("avx2", "fma")})
    found = differences_of(
        [
            run_info(),
            run_info(
                machine=other,
                libraries={"numpy": "2.1.0", "torch": "2.13.0"},
                checkpoint_digest="e" * 64,
                budget=Budget(max_accuracy_drop=0.02),
            ),
        ]
    )
    assert [(each.what, each.values) for each in found] == [
        ("machine.cpu", ("Test CPU @ 2.00GHz", "Another CPU")),
        ("machine.cores", ("4", "2")),
        ("machine.features", ("", "avx2, fma")),
        ("libraries.numpy", ("2.0.0", "2.1.0")),
        ("libraries.torch", (None, "2.13.0")),
        ("checkpoint_digest", ("c" * 64, "e" * 64)),
        ("budget.max_accuracy_drop", ("0.01", "0.02")),
    ]


def test_runs_alike_differ_in_nothing_and_when_they_were_made_does_not_count() -> None:
    assert differences_of([run_info(), run_info(run_id="20270101-000000", noise_floor=0.5)]) == ()
    assert RunDifference(what="name", values=("a", None)).values == ("a", None)
