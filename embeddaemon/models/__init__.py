"""What a model is, as metadata: what the operator declared (``spec``), what its folder says (``card``), where it comes
from (``sources``). Nothing here can embed or imports torch; only a worker that has loaded a model can embed."""
