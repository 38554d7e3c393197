"""What needs no clock: it is known in seconds, and the same on every machine."""


def test_the_model_answers_no_worse_and_is_no_larger(krishi):
    krishi.gate(against="released.onnx", fail_on="accuracy, size>10%")
