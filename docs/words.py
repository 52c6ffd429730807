"""What the fields of contexts and gradients are, in words, where their class does not say it."""

import ast
import inspect
import re
import textwrap

# Of the same name and meaning wherever it stands.
FIELDS = {
    "approximate": "which formula of the curve it was",
    "axis": "the axis along which it went",
    "bias": "what was added to the scores",
    "bias_shape": "the shape of the bias as it was given, to which its gradient is summed",
    "cached": "whether keys and values of a cache were used, which have no gradient",
    "call": "what was asked for, the same on all ranks",
    "causes": "share of bugs of which the cause was found",
    "comm": "the ranks that took part",
    "cos": "cosines of the angles, by position",
    "counted": "how many targets count",
    "difference": "prediction minus target",
    "dropout": "the probability of dropping a weight",
    "dropped": "the weights after dropout",
    "dtype": "the dtype of the result, and of the gradient",
    "end": "when it ended, in seconds",
    "eps": "what was added below the root",
    "exercise": "the exercise that it is a bug of",
    "exps": "the two exponentials of which the factor is the difference",
    "factor": "what each entry was multiplied by: 0, or 1 / (1 − p)",
    "given": "how many of query, key and value were given",
    "has_bias": "whether there was a bias, which then has a gradient",
    "ids": "the rows that were looked up",
    "ignore_index": "the target that does not count",
    "interleaved": "whether neighbours turn together, or the halves of a head",
    "k": "the keys",
    "keys": "which keys each rank has",
    "kind": "the kind of the mistake",
    "label_smoothing": "the share that goes to all classes alike",
    "line": "the number of its line, from 1",
    "lines": "share of bugs of which the first wrong line was found",
    "lse": "logarithm of the sum of exponentials, a row",
    "log_sum": "logarithm of the sum of exp(x − top), a row",
    "logits": "the logits as they were given",
    "mask": "which entries take part",
    "mix_weights": "how heads were mixed after the softmax",
    "mixed": "the weights after mixing and dropout, which the values were summed with",
    "moments": "mean (of a LayerNorm) and 1 / deviation of each row",
    "normalizer": "what makes weights of scores: softmax, or another",
    "open": "the gate after its activation",
    "out": "the result, of which backward needs the row sums",
    "out2": "what the two maps' difference gave, before the norm",
    "outs": "the results that were merged",
    "pooling": "what each step was weighted by",
    "positions": "where each token stood",
    "q": "the queries",
    "queries": "which queries each rank has",
    "rank": "the rank that did it",
    "scale": "the factor of the scores",
    "score": "the function of scores, and its tables",
    "scores": "the scores, before they become weights",
    "shape": "the shape of the input, and of its gradient",
    "share": "by how much the second map is weighted",
    "shares": "of each row that counts, what all classes are weighted by",
    "sin": "sines of the angles, by position",
    "sink": "the logits that take part and carry no value",
    "softcap": "beyond which scores do not grow",
    "source": "the code of the file",
    "targets": "the targets as they were given",
    "temperature": "what x was divided by",
    "text": "the cause in words",
    "top": "the greatest entry of each row",
    "unit": "the power of two that differences are read in",
    "v": "the values",
    "value": "what the gate was multiplied with",
    "values": "the values, after rotation and cache",
    "weight": "the weight, which the input's gradient needs",
    "x": "the input",
    "y": "the result",
}


def of(name: str, annotation: str, owner: str) -> str:
    """Return what a field is: context of a part, gradient, or what its name means; or nothing."""
    if name in FIELDS and not annotation.startswith(("F.", "nn.")):
        return FIELDS[name]
    if owner.endswith("Context") and re.search(r"Context|Any", annotation):
        return f"context of ``{name}``, for its backward" + (
            "; None without it" if "None" in annotation else ""
        )
    if name.startswith("d") and "Grads" in owner:
        return f"gradient of ``{name[1:]}``" + (
            "; None where not needed" if "None" in annotation else ""
        )
    return FIELDS.get(name, "")


def has_words(text: str) -> bool:
    """Return whether a text says more than a shape and a type."""
    plain = re.sub(r"\(.*?\)|`+.*?`+", "", text)
    return len(re.findall(r"[a-z]{3,}", plain)) >= 2


def undescribed(owner: type) -> list[str]:
    """Return the fields of a NamedTuple that neither its class nor this file has words for."""
    body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
    missing = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            value = getattr(getattr(after, "value", None), "value", None)
            said = value if isinstance(value, str) else ""
            words = of(node.target.id, ast.unparse(node.annotation), owner.__name__)
            if not (has_words(said) or words):
                missing.append(f"{owner.__name__}.{node.target.id}")
    return missing
