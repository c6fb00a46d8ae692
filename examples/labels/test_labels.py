"""The plugin's tests: a handler is run by the road it takes in production, without a worker or a platform."""

from labels import print_label

from product_live_worker import testkit


def test_a_label_is_printed_once_unless_more_are_asked_for() -> None:
    """Numbers may come as texts, as they do from a job's variables."""
    assert testkit.run(print_label, {"sku": "A1"}).output == {"printed": 1}
    assert testkit.run(print_label, {"sku": "A1", "copies": "3"}).output == {"printed": 3}


def test_a_large_order_is_refused_with_a_reason() -> None:
    """A refusal is FAILED with the author's own code."""
    outcome = testkit.run(print_label, {"sku": "A1", "copies": 101})
    assert (outcome.status, outcome.code) == ("FAILED", "too_many")
