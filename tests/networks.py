"""Networks of every kind that a plan knows, natively or of the reference."""

ACTIVATIONS = ["ReLU", "LeakyReLU", "Sigmoid", "Tanh", "SELU", "GELU", "SiLU", "Softplus", "Mish"]


def affine(m, n_in, n_out, dtype, rng=1):
    return m.Affine.create(n_in, n_out, rng=rng, dtype=dtype)


def activations_in_a_row(m, dtype):
    layers = [m.Tanh(), m.GELU(), m.ReLU(), m.Sigmoid(), m.SiLU(), m.Dropout(0.1), m.LeakyReLU(0.2), m.ReLU()]
    return [affine(m, 12, 24, dtype), *layers, m.Dropout(0.1), m.Dropout(0.1), affine(m, 24, 5, dtype, 2)]


def block(m, dtype, n, ends):
    """Return layers from n numbers to n."""
    inner = [m.LayerNorm.create(n, dtype=dtype), affine(m, n, 16, dtype, 5), m.SiLU(), m.Dropout(0.2)]
    return {
        "affine": [*inner, affine(m, 16, n, dtype, 6)],
        "activated": [affine(m, n, n, dtype, 5), m.Dropout(0.2), m.ReLU()],
        "normed": [m.Dropout(0.2), affine(m, n, n, dtype, 5), m.BatchNorm.create(n, dtype=dtype)],
        "bare": [m.ReLU(), m.Dropout(0.2)],
    }[ends]


# Networks of 12 numbers, or 3 indices, in and 5 out.
NETS = {
    "plain": lambda m, d: [affine(m, 12, 24, d), m.ReLU(), affine(m, 24, 5, d, 2)],
    "one layer": lambda m, d: [affine(m, 12, 5, d)],
    "norm": lambda m, d: [
        affine(m, 12, 24, d),
        m.BatchNorm.create(24, dtype=d),
        m.ReLU(),
        affine(m, 24, 5, d),
    ],
    "norm last": lambda m, d: [affine(m, 12, 5, d), m.BatchNorm.create(5, dtype=d)],
    "dropout": lambda m, d: [affine(m, 12, 24, d), m.ReLU(), m.Dropout(0.3), affine(m, 24, 5, d, 2)],
    "classic dropout": lambda m, d: [
        affine(m, 12, 24, d),
        m.Tanh(),
        m.Dropout(0.3, inverted=False, seed=3),
        affine(m, 24, 5, d, 2),
    ],
    "embedding": lambda m, d: [m.Embedding.create(30, 4, rng=3, init=0.5, dtype=d), affine(m, 12, 5, d)],
    "embedding, norm": lambda m, d: [
        m.Embedding.create(30, 4, rng=3, init=0.5, dtype=d),
        m.BatchNorm.create(12, dtype=d),
        m.Dropout(0.2),
        m.GELU(),
        affine(m, 12, 5, d),
    ],
    "input dropout": lambda m, d: [m.Dropout(0.2), affine(m, 12, 24, d), m.ReLU(), affine(m, 24, 5, d, 2)],
    "input norm": lambda m, d: [m.BatchNorm.create(12, dtype=d), m.ReLU(), affine(m, 12, 5, d)],
    "input activation": lambda m, d: [m.SiLU(), affine(m, 12, 5, d), m.LeakyReLU(0.1)],
    "activation after activation": activations_in_a_row,
    "norm after norm": lambda m, d: [
        affine(m, 12, 24, d),
        m.Sigmoid(),
        m.BatchNorm.create(24, momentum=0.5, dtype=d),
        m.BatchNorm.create(24, eps=1e-3, dtype=d),
        affine(m, 24, 5, d, 2),
    ],
    **{
        name: lambda m, d, name=name: [affine(m, 12, 24, d), getattr(m, name)(), affine(m, 24, 5, d, 2)]
        for name in ACTIVATIONS
    },
    "GELU by tanh": lambda m, d: [affine(m, 12, 24, d), m.GELU(approximate="tanh"), affine(m, 24, 5, d, 2)],
    **{
        f"{norm} {place}": lambda m, d, norm=norm, at=at: [
            *([getattr(m, norm).create(12, dtype=d), m.Tanh()] if at == 0 else []),
            affine(m, 12, 24, d),
            *([getattr(m, norm).create(24, eps=1e-3, dtype=d), m.ReLU()] if at == 1 else []),
            m.Dropout(0.1),
            affine(m, 24, 5, d, 2),
            *([getattr(m, norm).create(5, dtype=d)] if at == 2 else []),
        ]
        for norm in ("LayerNorm", "RMSNorm")
        for at, place in enumerate(("first", "inside", "last"))
    },
    **{
        f"{ends} block {place}": lambda m, d, ends=ends, place=place: (
            [
                *([] if place == "first" else [affine(m, 12, 24, d), m.ReLU()]),
                m.Residual(block(m, d, {"first": 12, "inside": 24, "last": 5}[place], ends)),
                *([] if place == "last" else [m.ReLU(), affine(m, 12 if place == "first" else 24, 5, d, 2)]),
            ]
            if place != "last"
            else [affine(m, 12, 5, d), m.Residual(block(m, d, 5, ends))]
        )
        for ends in ("affine", "activated", "normed", "bare")
        for place in ("first", "inside", "last")
    },
    "blocks in a row": lambda m, d: [
        affine(m, 12, 8, d),
        *(m.Residual(block(m, d, 8, ends)) for ends in ("affine", "normed", "activated")),
        affine(m, 8, 5, d, 2),
    ],
    "blocks in a block": lambda m, d: [
        affine(m, 12, 8, d),
        m.Residual([m.Residual(block(m, d, 8, "affine")), m.Tanh(), m.Residual(block(m, d, 8, "normed"))]),
        m.Residual([m.Residual([m.Residual([affine(m, 8, 8, d, 4)])])]),
        affine(m, 8, 5, d, 2),
    ],
    "block after an embedding": lambda m, d: [
        m.Embedding.create(30, 4, rng=3, init=0.5, dtype=d),
        affine(m, 12, 8, d),
        m.Residual(block(m, d, 8, "affine")),
        affine(m, 8, 5, d, 2),
    ],
}
