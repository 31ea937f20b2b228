"""Grouping digital operators into subgraphs, and removing what nobody reads, on random graphs."""

from __future__ import annotations

import models
import networkx as nx
import numpy as np
import onnx
import pytest
import stages
from hypothesis import given, settings
from hypothesis import strategies as st
from models import dyadic, float_model, node
from onnx import TensorProto, helper

from memcompile.errors import ModelError
from memcompile.ir.graph import DigitalNode, Graph, LinearLayer, OnnxNode, read_values

X = {"x": models.images((2, 3))}
WEIGHTS = {f"w{number}": dyadic(np.random.default_rng(number), (3, 3), step=0.0625) for number in range(3)}
# How often random nodes read the last value rather than an older one: long chains show most.
REACH = 4


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """A random graph of Relu, Add and MatMul with static weights; all values are [N, 3]."""
    values = ["x"]
    nodes = []
    for number in range(draw(st.integers(1, 12))):
        operator = draw(st.sampled_from(["Relu", "Add", "MatMul", "MatMul"]))
        read = [values[-1 - min(len(values) - 1, draw(st.integers(0, REACH)))] for _ in range(2)]
        reads = {"Relu": read[:1], "Add": read, "MatMul": [read[0], f"w{number % 3}"]}[operator]
        nodes.append(node(operator, " ".join(reads), f"v{number}"))
        values.append(f"v{number}")
    outputs = draw(st.sets(st.sampled_from(values[1:]), min_size=1, max_size=3))
    return float_model(nodes, ("N", 3), WEIGHTS, sorted(outputs))


def split(graph: Graph) -> tuple[list[DigitalNode], list[LinearLayer]]:
    groups = [item for item in graph.nodes if isinstance(item, DigitalNode)]
    layers = [item for item in graph.nodes if isinstance(item, LinearLayer)]
    assert len(groups) + len(layers) == len(graph.nodes)
    return groups, layers


def stretches(graph: Graph) -> int:
    """Most digital stretches that any path has, with layers in between."""
    found: dict[str, int] = {}
    for item in graph.nodes:
        count = int(isinstance(item, OnnxNode))
        for before in graph.dataflow.predecessors(item.name):
            starts = isinstance(item, OnnxNode) and not isinstance(graph.by_name[before], OnnxNode)
            count = max(count, found[before] + starts)
        found[item.name] = count
    return max(found.values())


@settings(max_examples=80, deadline=None, derandomize=True)
@given(networks())
def test_groups_of_any_graph(model: onnx.ModelProto) -> None:
    before = stages.after("remove_dead_nodes", model, X)
    after = stages.after("group_digital", model, X)
    stages.assert_matches(after, model, X)
    groups, layers = split(after)
    inside = [{item.name for item in group.nodes} for group in groups]
    operators = {item.name for item in before.nodes if isinstance(item, OnnxNode)}
    assert sorted(name for names in inside for name in names) == sorted(operators)
    assert {layer.name for layer in layers} == {item.name for item in before.nodes} - operators
    for names in inside:
        below = set().union(*(nx.descendants(before.dataflow, name) for name in names))
        above = set().union(*(nx.ancestors(before.dataflow, name) for name in names))
        assert below & above <= names, "a path leaves the group and comes back"
    # Operators before all layers may form a group of their own that a shorter path needs.
    first = any(not nx.ancestors(before.dataflow, name) - operators for name in operators)
    assert stretches(before) <= len(groups) <= stretches(before) + first or not operators


@settings(max_examples=80, deadline=None, derandomize=True)
@given(networks())
def test_groups_hand_on_what_others_read_and_nothing_else(model: onnx.ModelProto) -> None:
    graph = stages.after("group_digital", model, X)
    groups, _ = split(graph)
    for group in groups:
        made = {value for item in group.nodes for value in item.outputs}
        read = {value for item in group.nodes for value in read_values(item)}
        assert set(group.inputs) == read - made - set(graph.constants)
        elsewhere = {value for item in graph.nodes if item is not group for value in item.inputs} | set(graph.outputs)
        assert set(group.outputs) == made & elsewhere


@settings(max_examples=80, deadline=None, derandomize=True)
@given(networks())
def test_nothing_dead_is_left_and_nothing_alive_removed(model: onnx.ModelProto) -> None:
    before = stages.after("fold_batchnorm", model, X)
    after = stages.after("remove_dead_nodes", model, X)
    makers = [before.producers[value].name for value in before.outputs]
    alive = set(makers).union(*(nx.ancestors(before.dataflow, name) for name in makers))
    assert [item.name for item in after.nodes] == [item.name for item in before.nodes if item.name in alive]
    stages.assert_matches(after, model, X)


def group(model: onnx.ModelProto, feeds: stages.Feeds) -> Graph:
    graph = stages.after("group_digital", model, feeds)
    stages.assert_matches(graph, model, feeds)
    return graph


def test_a_graph_without_layers_is_one_group() -> None:
    nodes = [node("Relu", "x", "a"), node("Neg", "x", "b"), node("Add", "a b", "y")]
    (only,) = group(float_model(nodes, ("N", 3), {}), X).nodes
    assert isinstance(only, DigitalNode)
    assert (only.inputs, only.outputs) == (("x",), ("y",))


def test_a_graph_of_layers_has_no_group() -> None:
    nodes = [node("MatMul", "x w0", "a"), node("MatMul", "a w1", "y")]
    assert stages.kinds(group(float_model(nodes, ("N", 3), WEIGHTS), X)) == ["LinearLayer", "LinearLayer"]


def test_the_branches_of_a_skip_connection_meet_in_one_group() -> None:
    nodes = [
        node("Relu", "x", "r"),
        node("MatMul", "r w0", "a"),
        node("Add", "a r", "b"),
        node("Neg", "r", "n"),
        node("Mul", "b n", "y"),
    ]
    graph = group(float_model(nodes, ("N", 3), WEIGHTS), X)
    assert [item.name for item in graph.nodes] == ["digital_0", "MatMul_a", "digital_1"]


def test_a_branch_inside_a_group_brings_the_values_it_captures() -> None:
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
    graphs = {
        name: helper.make_graph([helper.make_node(operator, ["a", "k"], ["r"])], name, [], [result])
        for name, operator in (("then_branch", "Add"), ("else_branch", "Sub"))
    }
    nodes = [
        node("MatMul", "x w0", "a"),
        node("ReduceMax", "x", "peak", keepdims=0, axes=[0, 1]),
        node("Greater", "peak zero", "yes"),
        helper.make_node("If", ["yes"], ["chosen"], name="choice", **graphs),
        node("Relu", "chosen", "y"),
    ]
    weights = {**WEIGHTS, "zero": np.array(0, np.float32), "k": np.ones((3,), np.float32)}
    outputs = {"y": (TensorProto.FLOAT, ("N", 3))}
    graph = group(models.make(nodes, {"x": (TensorProto.FLOAT, ("N", 3))}, outputs, weights), X)
    last = graph.nodes[-1]
    assert isinstance(last, DigitalNode)
    assert set(last.inputs) == {"a", "yes"}
    assert "k" in graph.constants


def test_a_sequence_passes_between_two_groups() -> None:
    nodes = [
        node("SequenceConstruct", "x x", "s"),
        node("MatMul", "x w0", "a"),
        node("ReduceMax", "a", "peak", keepdims=0, axes=[0, 1]),
        node("Cast", "peak", "i", to=TensorProto.INT64),
        node("Sub", "i i", "zero"),
        node("SequenceAt", "s zero", "t"),
        node("Relu", "t", "y"),
    ]
    outputs = {"y": (TensorProto.FLOAT, ("N", 3))}
    model = models.make(nodes, {"x": (TensorProto.FLOAT, ("N", 3))}, outputs, WEIGHTS)
    before = stages.after("remove_dead_nodes", model, X)
    graph = stages.default_pass("group_digital").run(before, stages.context_for(X))
    assert [("s" in item.inputs, "s" in item.outputs) for item in graph.nodes] == [
        (False, True),
        (False, False),
        (True, False),
    ]
    stages.assert_matches(graph, model, X)
    unknown = before.replace(types={name: kind for name, kind in before.types.items() if name != "s"})
    with pytest.raises(ModelError, match="'s' is neither a tensor nor a sequence, map or optional"):
        stages.default_pass("group_digital").run(unknown, stages.context_for(X))


def test_a_group_never_takes_the_name_of_a_layer() -> None:
    product = helper.make_node("MatMul", ["x", "w0"], ["a"], name="digital_1")
    graph = group(float_model([product, node("Relu", "a", "y")], ("N", 3), WEIGHTS), X)
    assert [item.name for item in graph.nodes] == ["digital_1", "digital_1_"]


def test_optional_results_nobody_reads_are_not_handed_on() -> None:
    nodes = [node("MatMul", "x w0", "a"), node("TopK", "a k", "top unread"), node("Relu", "top", "y")]
    weights = {**WEIGHTS, "k": np.array([2], np.int64)}
    graph = group(float_model(nodes, ("N", 3), weights), X)
    assert isinstance(graph.nodes[-1], DigitalNode)
    assert graph.nodes[-1].outputs == ("y",)
