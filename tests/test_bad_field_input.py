"""Bad input to random fields is answered by a named error with the way out."""

import math

import networkx as nx
import numpy as np
import pytest
import torch

from pyro_ebm.energies import CallableEnergy, PatternFactors, RandomField, TableFactors, clamp
from pyro_ebm.kernels import Gibbs, run
from pyro_ebm.partition import TooManyStatesError, belief_propagation
from pyro_ebm.partition.elimination import elimination
from tests.test_bad_input import Bad

EDGES = [(0, 1), (1, 2)]
ZEROS = torch.zeros(2, 3, 3)
NAN, INF = math.nan, math.inf
NO_FIELD = CallableEnergy(lambda x: x.square().sum(-1), 2)


def field(table: object = ZEROS, nodes: object = EDGES, states: object = (3, 3, 3)) -> RandomField:
    return RandomField(states, {"edge": TableFactors(nodes, table)})


def chain(**settings: object) -> RandomField:
    given = {"unary": torch.zeros(2, 4, 3), "pairwise": torch.zeros(1, 3, 3)}
    return RandomField.chain(**{**given, **settings})


def potts(**settings: object) -> RandomField:
    return RandomField.potts(EDGES, 3, **settings)


def forbidding() -> RandomField:
    return field(torch.eye(3).log().expand(1, 3, 3))


TABLES = {
    "NaN in a table": Bad(
        lambda: field(torch.full((2, 3, 3), NAN)), ValueError, ("table", "NaN", "forbids")
    ),
    "plus infinity in a table": Bad(
        lambda: field(torch.full((2, 3, 3), INF)), ValueError, ("table", "+inf", "forbids")
    ),
    "a table of integers": Bad(
        lambda: field(torch.zeros(2, 3, 3, dtype=torch.int64)), TypeError, ("int64", ".float()")
    ),
    "a table that is an array": Bad(
        lambda: field(np.zeros((2, 3, 3))), TypeError, ("table", "ndarray", "torch tensor")
    ),
    "too many tables": Bad(
        lambda: field(torch.zeros(3, 3, 3)), ValueError, ("(3, 3, 3)", "2 or 1", "q_2")
    ),
    "a table without the dimension of the count": Bad(
        lambda: field(torch.zeros(3, 3)), ValueError, ("(3, 3)", "2 or 1")
    ),
    "tables for other numbers of states": Bad(
        lambda: field(states=(3, 3, 4)), ValueError, ("'edge'", "(3, 3)", "(3, 4)")
    ),
    "a node that is not there": Bad(
        lambda: field(nodes=[(0, 1), (1, 3)]), ValueError, ("'edge'", "3", "counted from 0")
    ),
    "a node twice in a factor": Bad(
        lambda: field(nodes=[(0, 1), (2, 2)]), ValueError, ("[2, 2]", "twice", "diagonal")
    ),
    "nodes that are no rows": Bad(
        lambda: field(nodes=[0, 1]), ValueError, ("(2,)", "row for each")
    ),
    "nodes that are no integers": Bad(
        lambda: field(nodes=torch.zeros(2, 2)), ValueError, ("float32", "integers")
    ),
    "no states": Bad(lambda: field(states=()), ValueError, ("states", "[]", "positive")),
    "a node of no states": Bad(lambda: field(states=(3, 0, 3)), ValueError, ("[0]", "positive")),
    "half a state": Bad(lambda: field(states=(3, 2.5, 3)), ValueError, ("[2.5]", "positive")),
    "a bare tensor for factors": Bad(
        lambda: RandomField([3, 3], {"edge": ZEROS}), TypeError, ("'edge'", "TableFactors(")
    ),
    "a name with a space": Bad(
        lambda: RandomField([3], {"my table": TableFactors([[0]], torch.zeros(1, 3))}),
        ValueError,
        ("my table", "attribute"),
    ),
    "tables of two dtypes": Bad(
        lambda: RandomField(
            [2],
            {
                "a": TableFactors([[0]], torch.zeros(1, 2)),
                "b": TableFactors([[0]], torch.zeros(1, 2).double()),
            },
        ),
        ValueError,
        ("float32", "float64", "alike"),
    ),
    "a pattern of other numbers of states": Bad(
        lambda: RandomField([2, 2], {"e": PatternFactors([[0, 1]], torch.zeros(1), torch.eye(3))}),
        ValueError,
        ("'e'", "(3, 3)", "(2, 2)"),
    ),
    "a pattern of other nodes": Bad(
        lambda: PatternFactors([[0, 1]], torch.zeros(1), torch.zeros(3)),
        ValueError,
        ("pattern", "(3,)", "2 nodes"),
    ),
    "an infinite weight": Bad(
        lambda: PatternFactors([[0, 1]], torch.tensor([-INF]), torch.eye(2)),
        ValueError,
        ("weight", "infinite", "finite"),
    ),
    "an unknown word for a coupling": Bad(
        lambda: potts(couplings="mine"), ValueError, ("mine", "free", "shared")
    ),
    "a number for a coupling": Bad(lambda: potts(couplings=0.5), TypeError, ("0.5", "tensor")),
    "too many couplings": Bad(
        lambda: potts(couplings=torch.zeros(3)), ValueError, ("weight", "(3,)", "2 or 1")
    ),
    "states for another graph": Bad(
        lambda: RandomField.potts(nx.path_graph(3), [2, 2]), ValueError, ("2", "3 nodes")
    ),
    "no edges and no graph": Bad(
        lambda: RandomField.potts(torch.zeros(0, 2, dtype=torch.int64), 2),
        ValueError,
        ("edges", "graph"),
    ),
    "edges as one number": Bad(lambda: RandomField.potts(3, 2), TypeError, ("3", "pairs")),
    "a chain without states": Bad(
        lambda: chain(unary=torch.zeros(3)), ValueError, ("unary", "(3,)", "count")
    ),
    "a chain with too few steps": Bad(
        lambda: chain(pairwise=torch.zeros(2, 3, 3)), ValueError, ("table", "(2, 3, 3)", "3 or 1")
    ),
    "a sequence of no steps": Bad(
        lambda: chain(lengths=torch.tensor([0, 4])), ValueError, ("0", "from 1 to 4")
    ),
    "a sequence that is too long": Bad(
        lambda: chain(lengths=torch.tensor([2, 5])), ValueError, ("5", "from 1 to 4")
    ),
    "lengths that are real": Bad(
        lambda: chain(lengths=torch.tensor([2.0, 4.0])), ValueError, ("lengths", "integer")
    ),
}

USE = {
    "a label that is not there": Bad(
        lambda: field()(torch.tensor([0, 3, 1])), ValueError, ("visible", "3", "{0, …, 2}")
    ),
    "a label of another node": Bad(
        lambda: field(torch.zeros(1, 3, 4), states=(2, 3, 4))(torch.tensor([2, 0, 0])),
        ValueError,
        ("visible", "2", "own range"),
    ),
    "half a label": Bad(
        lambda: field()(torch.tensor([0, 0.5, 1])), ValueError, ("0.5", "{0, …, 2}")
    ),
    "a negative label": Bad(lambda: field()(torch.tensor([0, -1, 1])), ValueError, ("-1",)),
    "too few labels": Bad(
        lambda: field()(torch.zeros(5, 2)), ValueError, ("visible", "(5, 2)", "3")
    ),
    "the law of coupled nodes": Bad(
        lambda: field().conditional("visible", torch.zeros(3)), ValueError, ("coupled", "blocks(")
    ),
    "the law of two nodes of a factor": Bad(
        lambda: field().conditional("visible", torch.zeros(3), torch.tensor([0, 1])),
        ValueError,
        ("share a factor", "blocks("),
    ),
    "an unknown site": Bad(lambda: field().blocks("hidden"), ValueError, ("hidden", "visible")),
    "a law without values": Bad(
        lambda: field().conditional("visible", {}, torch.tensor([0])), ValueError, ("missing",)
    ),
    "a law where no label is left": Bad(
        lambda: forbidding().conditional("visible", torch.tensor([0, 1, 2]), torch.tensor([1])),
        ValueError,
        ("no label left", "probability zero", "mode"),
    ),
    "a chain of states that are forbidden": Bad(
        lambda: run(Gibbs(), forbidding(), 1, warmup=0, initial=torch.tensor([[0, 1, 2]])),
        ValueError,
        ("energy of the start is infinite", "chains [0]", "p(x) is not 0", "draw or the mode"),
    ),
    "a label held that is not there": Bad(
        lambda: clamp(field(), torch.tensor([0, 3, 0]), mask=torch.tensor([False, True, False])),
        ValueError,
        ("'visible' contains 3", "not in"),
    ),
    "all nodes held": Bad(
        lambda: clamp(field(), torch.zeros(3)), ValueError, ("nothing is free", "mask")
    ),
    "fields over other nodes added": Bad(
        lambda: field() + RandomField.ising([(0, 1)]), ValueError, ("in one energy", "agree")
    ),
    "elimination of no field": Bad(
        lambda: elimination.log_partition(NO_FIELD),
        TypeError,
        ("RandomField", "CallableEnergy"),
    ),
    "no draws": Bad(lambda: elimination.sample(field(), 0), ValueError, ("count", "0", "positive")),
    "a seed in words": Bad(
        lambda: elimination.sample(field(), 1, seed="one"), ValueError, ("seed", "one")
    ),
    "a field that is too wide": Bad(
        lambda: elimination.log_partition(RandomField.potts(nx.complete_graph(60), 2)),
        TooManyStatesError,
        ("60 nodes", "width of at least 59", "belief_propagation"),
    ),
    "damping of one": Bad(
        lambda: belief_propagation(field(), damping=1.0), ValueError, ("damping", "1.0", "below 1")
    ),
    "no messages": Bad(
        lambda: belief_propagation(field(), max_iterations=0), ValueError, ("max_iterations", "0")
    ),
    "no tolerance": Bad(
        lambda: belief_propagation(field(), tolerance=0.0), ValueError, ("tolerance", "0.0")
    ),
    "messages of no field": Bad(lambda: belief_propagation(NO_FIELD), TypeError, ("RandomField",)),
}

CASES = {
    f"{group}: {what}": bad
    for group, table in {"tables": TABLES, "use": USE}.items()
    for what, bad in table.items()
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_named_with_the_way_out(what: str) -> None:
    ask, error, words = CASES[what]
    with pytest.raises(error) as caught:
        ask()
    message = str(caught.value)
    for word in words:
        assert word in message, message
