import pytest

from alignjax.errors import InputError
from alignjax.models.families import FAMILIES
from alignjax.models.layer_lists import LayerLists, layer_lists, list_fields

W, F = "sliding_attention", "full_attention"


def read(name, layers=4, **fields):
    return layer_lists(fields, FAMILIES[name], layers, "config.json")


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        # The rules of transformers 5.23 where a file has no list.
        ("llama", {"sliding_window": 8}, (None, "", "")),
        ("mistral", {"sliding_window": 8}, (8, "", "")),
        ("mistral", {"sliding_window": None}, (None, "", "")),
        ("gemma2", {"sliding_window": 8}, (8, "WFWF", "")),
        ("gemma2", {}, (4096, "WFWF", "")),
        ("gemma3_text", {"sliding_window": 8, "sliding_window_pattern": 2}, (8, "WFWF", "")),
        ("gemma3_text", {"sliding_window": 8}, (8, "", "")),  # only every sixth layer is full
        ("olmo3", {"sliding_window": 8}, (8, "WWWF", "")),
        ("cohere2", {"sliding_window": 8}, (8, "WWWF", "RRRN")),
        ("exaone4", {"sliding_window": 8, "sliding_window_pattern": "LG"}, (8, "WFWF", "RNRN")),
        ("exaone4", {"sliding_window": None}, (None, "", "")),  # without windows all layers rotate
        ("qwen2", {"sliding_window": 8}, (None, "", "")),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True}, (None, "", "")),  # from layer 28 on
        ("qwen3", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}, (8, "FFFW", "")),
        ("smollm3", {}, (None, "", "RRRN")),
        ("smollm3", {"no_rope_layer_interval": 2}, (None, "", "RNRN")),
        ("smollm3", {"no_rope_layers": [0, 1, 1, 1]}, (None, "", "NRRR")),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 8}, (8, "FFFW", "RRRN")),
        # The list goes first.
        ("gemma2", {"sliding_window": 8, "layer_types": [F, F, F, W]}, (8, "FFFW", "")),
        ("gemma2", {"sliding_window": 8, "layer_types": [F] * 4}, (None, "", "")),
    ],
)
def test_which_layers_have_a_window_and_rotate(name, fields, expected):
    window, windowed, rotated = expected
    found = read(name, **fields)
    assert found == LayerLists(window, tuple(c == "W" for c in windowed), tuple(c == "R" for c in rotated))
    # What is written says the same to the reader.
    assert layer_lists(list_fields(FAMILIES[name], found, 4), FAMILIES[name], 4, "written") == found


def test_older_readers_find_the_first_layer_with_a_window():
    lists = read("qwen2", sliding_window=8, use_sliding_window=True, max_window_layers=2)
    fields = list_fields(FAMILIES["qwen2"], lists, 4)
    assert fields["max_window_layers"] == 2 and fields["layer_types"] == [F, F, W, W]


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("gemma2", {"layer_types": [W, F]}, 'field "layer_types" must list'),
        ("gemma2", {"layer_types": [W, F, W, "chunked_attention"]}, 'field "layer_types" must list'),
        ("gemma2", {"layer_types": [W, F, W, {}]}, 'field "layer_types" must list'),
        ("gemma2", {"layer_types": "all"}, 'field "layer_types" must list'),
        (
            "gemma2",
            {"sliding_window": 0},
            'field "sliding_window" is 0, must be a whole number of at least 1',
        ),
        ("gemma2", {"sliding_window": 10**400}, 'field "sliding_window" is 1000'),
        ("cohere2", {"sliding_window_pattern": 0}, 'field "sliding_window_pattern" is 0'),
        ("cohere2", {"sliding_window_pattern": "LX"}, "field \"sliding_window_pattern\" is 'LX'"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": -1}, 'field "max_window_layers" is -1'),
        ("smollm3", {"no_rope_layers": [1, 1]}, 'field "no_rope_layers" must list 0 or 1 for each of the 4'),
        ("smollm3", {"no_rope_layers": [1, 1, 2, 1]}, 'field "no_rope_layers" must list'),
    ],
)
def test_lists_that_do_not_fit(name, fields, message):
    with pytest.raises(InputError) as caught:
        read(name, **fields)
    assert str(caught.value).startswith(f"config.json: {message}")
