"""A frozen backbone with prompts: text and images in, L2-normalised features out.

A :class:`~vlprompt.engine.prompt.Prompt` is what is added to a branch. The text branch never
computes what cannot reach the class feature: sequences end at the end-of-text token, and the prefix
that all sequences share is run once (:class:`~vlprompt.engine.packing.Plan`).

Shapes: K sequences (classes), B images, n context length, D width of a branch, E joint width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vlprompt.engine.attention import AttentionPrompt, Pack, heads, upcast
from vlprompt.engine.features import FeatureStore
from vlprompt.engine.packing import Plan, Row
from vlprompt.engine.prompt import Beside, KeyValue, Prompt
from vlprompt.errors import UserError

if TYPE_CHECKING:
    from vlprompt.engine.backbones.protocol import Backbone

log = logging.getLogger("vlprompt")
KEPT_PER_TOKEN = 11
"""Hidden states, in widths, that one layer keeps of one token for the backward pass (measured: 10.4)."""


KEPT_TEXTS = 8
"""Sets of sequences whose class features, or hidden states below a prompt, an encoder keeps."""
_KEEPING = Lock()
"""Held while what is kept is looked up or changed: the app's visitors share an encoder. It is none of the
encoder's own, so that this can be copied."""


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


class Encoder:
    """Encodes text and images with a frozen backbone and prompts.

    Args:
        backbone: the frozen dual encoder.
        memory: bytes that the text branch may keep for the backward pass; beyond it, classes are
            taken in chunks whose hidden states are computed again in the backward pass (exact).
            ``None`` takes half of what is free when this is first asked for; from then on it stays, so
            that the chunks, and with them the last bits, do not depend on the moment.
    """

    def __init__(self, backbone: Backbone, memory: int | None = None):
        self.backbone = backbone
        self.memory = memory
        self.store = FeatureStore.of(backbone)
        self.frozen_dtype: torch.dtype | None = None
        """in which images without prompts are computed, if not as all else; features stay float32"""
        self._kept: dict[Any, Tensor] = {}

    @property
    def logit_scale(self) -> Tensor:
        """What cosines are multiplied by to give logits, a scalar."""
        return self.backbone.logit_scale.exp()

    def tokenize(self, texts: Sequence[str]) -> list[Row]:
        """Texts -> token ids with start and end token, not padded.

        Raises:
            UserError: a text is longer than the backbone's positions; there is no text branch.
        """
        if self.backbone.tokenizer is None:
            raise UserError(f"backbone '{self.backbone.name}' has no text branch: it reads no words")
        for text in texts:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise UserError(f"'{text}' is no text in UTF-8: rename its folder, or write it anew")
        rows = [tuple(ids) for ids in self.backbone.tokenizer(list(texts))["input_ids"]]
        limit = self.backbone.max_positions
        for text, row in zip(texts, rows, strict=True):
            if len(row) > limit:
                raise UserError(
                    f"'{text}' has {len(row)} tokens, the backbone reads {limit}: "
                    "shorten the class name, the template or the context"
                )
        return rows

    def read_texts(self, texts: Sequence[str]) -> list[Row]:
        """Texts that are to be classified -> token ids; the end of a text that is too long is cut off.

        A warning counts those that are.

        Raises:
            UserError: a text without a token.
        """
        rows = [tuple(ids) for ids in self.backbone.tokenizer(list(texts))["input_ids"]] if texts else []
        most, ends = self.backbone.max_positions, self.backbone.ends
        for number, (text, row) in enumerate(zip(texts, rows, strict=True), 1):
            if not text.strip() or len(row) == self.backbone.starts + ends:
                raise UserError(f"text {number} of {len(texts)} is empty: leave it out")
        if long := sum(len(row) > most for row in rows):
            log.warning("%d of %d texts are longer than %d tokens and were cut", long, len(rows), most)
        return [row if len(row) <= most else row[: most - ends] + row[len(row) - ends :] for row in rows]

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Token embeddings (n, D) of token ids, e.g. to initialise a context from words."""
        return self.backbone.embed_tokens(
            torch.tensor(list(ids), dtype=torch.long, device=self.backbone.device)
        )

    def body(self, text: str) -> Row:
        """Token ids of a text alone, without start and end token."""
        row = self.tokenize([text])[0]
        return row[self.backbone.starts : len(row) - self.backbone.ends]

    @torch.no_grad()
    def word_states(self, words: str) -> list[Tensor]:
        """Hidden states (n, D) of n word tokens as they enter each text layer, e.g. to initialise prompts."""
        rows, layers = self.tokenize([words]), self.backbone.text_layers
        plan, start = self._plan(rows), self.backbone.starts
        hidden, states = self._embed_plan(plan, None), []  # (1, T, D)
        for layer in layers:
            states.append(hidden[0, start : len(rows[0]) - self.backbone.ends].float())
            hidden = self.backbone.run_layer(layer, hidden, AttentionPrompt(plan.pack))
        return states

    def encode_input(
        self, inputs: Tensor, prompt: Prompt | None = None, below: Callable[[int], Tensor] | None = None
    ) -> Tensor:
        """Features (B, E) of what is classified, by the branch that reads it.

        Args:
            inputs: pixels (B, 3, H, W); or token ids (B, T) of texts, -1 behind a shorter one, where the
                backbone has no vision branch.
            prompt, below: as in :meth:`encode_image`.
        """
        if "vision" in self.backbone.branches:
            return self.encode_image(inputs, prompt, below)
        return self.encode_text([tuple(i for i in row if i >= 0) for row in inputs.tolist()], prompt)

    def encode_text(
        self, rows: Sequence[Row], prompt: Prompt | None = None, normalize: bool = True
    ) -> Tensor:
        """Class features of K sequences.

        Args:
            rows: token ids and context slots, from start to end-of-text token.
            prompt: context, deep context, key/value prompts and what stands beside layers.
            normalize: to length 1.

        Returns:
            (K, E), or (B, K, E) where each of B rows has a prompt of its own.
        """
        if prompt is None or prompt.empty:
            return self._constant(lambda: self._frozen_text(rows, normalize), tuple(rows), normalize)
        chunks = self._chunks(rows, prompt)
        if len(chunks) == 1:
            return self._encode_pack(rows, prompt, normalize)
        done = [
            checkpoint(
                self._encode_pack,
                rows[chunk],
                prompt.of(chunk),
                normalize,
                use_reentrant=False,
                preserve_rng_state=prompt.noisy,
            )
            for chunk in chunks
        ]
        return torch.cat(done, -2)

    @torch.no_grad()
    def _constant(self, make: Callable[[], Tensor], *key: Any) -> Tensor:
        """What depends on nothing that is learned; the latest ones are kept."""
        key = (*key, torch.is_autocast_enabled(self.backbone.device.type))
        with _KEEPING:
            found = self._kept.get(key)
        if found is None:
            with torch.inference_mode(False), torch.no_grad():  # training may need it later
                found = make()
            with _KEEPING:
                while len(self._kept) >= KEPT_TEXTS:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[key] = found
        return found

    def _frozen_text(self, rows: Sequence[Row], normalize: bool) -> Tensor:
        """Class features without a prompt, from the store where they are there."""
        store = None if torch.is_autocast_enabled(self.backbone.device.type) else self.store
        key = f"text|{normalize}|{list(rows)}"
        features = None if store is None else store.get(key)
        if features is None:
            features = self._encode_pack(rows, Prompt(), normalize)
            if store is not None:
                store.put(key, features)
        return features

    def _encode_pack(self, rows: Sequence[Row], prompt: Prompt, normalize: bool) -> Tensor:
        """Class features of sequences in one pack."""
        plan, layers = self._plan(rows, share=not prompt.noisy), self.backbone.text_layers
        first = prompt.first if prompt.first < len(layers) else 0

        def below() -> Tensor:
            """What enters the first layer that is prompted."""
            return self._frozen(layers, self._embed_plan(plan, prompt.context), first, plan.pack)

        kept = (tuple(rows), first, prompt.noisy)
        hidden = self._constant(below, *kept) if first else below()  # (B or 1, T, D)
        hidden = hidden.expand(prompt.rows or 1, -1, -1)
        context = 0 if prompt.context is None else prompt.context.shape[-2]
        hidden, plan = self._run(
            layers, hidden, prompt, prompt.place or (self.backbone.starts, context), plan, first
        )
        if self.backbone.read_text == "mean":
            hidden = plan.pack.means(hidden)
        features = upcast(self.backbone.finish_text(hidden))  # (B or 1, S, E)
        features = features[:, plan.owners]  # (B or 1, K, E)
        features = F.normalize(features, dim=-1) if normalize else features
        return features[0] if prompt.rows is None else features

    def encode_image(
        self,
        pixels: Tensor,
        prompt: Prompt | None = None,
        below: Callable[[int], Tensor] | None = None,
        normalize: bool = True,
    ) -> Tensor:
        """Image features.

        Args:
            pixels: (B, 3, H, W), normalised as the backbone wants it.
            prompt: tokens after the patch tokens, deep tokens, key/value prompts and what stands beside
                layers.
            below: layer -> what :meth:`enter_layer` gives of the same pixels, where it is known; asked
                only where the first layers are not prompted.
            normalize: to length 1.

        Returns:
            (B, E).
        """
        with self._frozen_autocast(prompt):
            features = upcast(self.backbone.finish_vision(self.image_states(pixels, prompt, below)))
        return F.normalize(features, dim=-1) if normalize else features

    def _frozen_autocast(self, prompt: Prompt | None) -> AbstractContextManager[Any]:
        """Another precision, where one was chosen and there is no prompt."""
        if self.frozen_dtype is None or not (prompt is None or prompt.empty):
            return nullcontext()
        return torch.autocast(self.backbone.device.type, self.frozen_dtype)

    def image_states(
        self,
        pixels: Tensor,
        prompt: Prompt | None = None,
        below: Callable[[int], Tensor] | None = None,
        tokens: int = 0,
    ) -> Tensor:
        """What the last vision layer gives where it is read, and of the last ``tokens`` prompt tokens.

        Args:
            pixels, prompt, below: as in :meth:`encode_image`.

        Returns:
            (B, R + tokens, D), with R the backbone's ``read_tokens``.
        """
        prompt, layers = prompt or Prompt(), self.backbone.vision_layers
        first = min(prompt.first, len(layers) - 1)
        if first and below is not None:
            hidden = below(first)  # (B, T, D)
        else:
            hidden = self.enter_layer(pixels, first, prompt.context)
        context = 0 if prompt.context is None else len(prompt.context)
        place = hidden.shape[1] - context, context
        return self._run(layers, hidden, prompt, place, None, first, tokens)[0]

    def enter_layer(self, pixels: Tensor, layer: int, context: Tensor | None = None) -> Tensor:
        """Hidden states (B, 1 + patches + n, D) of images that enter a layer; no layer below it is prompted.

        Args:
            pixels: (B, 3, H, W).
            context: (n, D), appended after the patch tokens.
        """
        hidden = self.backbone.embed_image(pixels)  # (B, 1 + patches, D)
        if context is not None:
            hidden = torch.cat([hidden, context.to(hidden.dtype).expand(len(hidden), -1, -1)], 1)
        return self._frozen(self.backbone.vision_layers, self.backbone.enter_vision(hidden), layer, None)

    def _chunks(self, rows: Sequence[Row], prompt: Prompt) -> list[slice]:
        """Sequences in as few chunks as the memory allows; one where nothing is kept for a backward pass."""
        if not torch.is_grad_enabled() or len(rows) == 1:
            return [slice(None)]
        plan = self._plan(rows, share=not prompt.parts_sequences)
        layers, width = len(self.backbone.text_layers), self.backbone.text_width
        size = self.backbone.dtype.itemsize
        each = (prompt.rows or 1) * layers * KEPT_PER_TOKEN * width * size
        if self.memory is None:
            self.memory = free_memory(self.backbone.device) // 2
        suffixes = len(plan.ids) - plan.pack.prefix
        room = max(self.memory // each - plan.pack.prefix, 1)  # suffix tokens in one chunk
        count = min(-(-suffixes // room), len(rows))
        step = -(-len(rows) // count)
        return [slice(i, i + step) for i in range(0, len(rows), step)]

    def _plan(self, rows: Sequence[Row], share: bool = True) -> Plan:
        """How sequences stand in one row; ``share`` as in :meth:`Plan.of`."""
        if self.backbone.pad is None:
            return Plan.of(rows, share, self.backbone.causal, self.backbone.device)
        return Plan.padded(rows, self.backbone.max_positions, self.backbone.pad, self.backbone.device)

    def _embed_plan(self, plan: Plan, context: Tensor | None) -> Tensor:
        """Entries of a plan -> embeddings with positions (B or 1, T, D)."""
        embedded = self.backbone.embed_tokens(plan.ids)[None]  # (1, T, D)
        if context is not None:
            context = context if context.ndim == 3 else context[None]  # (B or 1, M, D)
            places, rows = plan.slots
            embedded = embedded.expand(len(context), -1, -1).to(context.dtype)
            embedded = embedded.index_copy(1, places, context[:, rows])
        return self.backbone.enter_text(embedded + self.backbone.text_positions(plan.positions))

    def _run(
        self,
        layers: Sequence[nn.Module],
        hidden: Tensor,
        prompt: Prompt,
        place: tuple[int, int],
        plan: Any,
        first: int,
        tokens: int = 0,
    ) -> tuple[Tensor, Any]:
        """The layers from ``first`` with what the prompt adds.

        Args:
            hidden: (B, T, D).
            place: position and number of the tokens that deep ones replace.
            plan: of packed text; ``None`` for images.
            tokens: how many of the prompt's tokens are read of images.

        Returns:
            Hidden states of what is read in the end, and the plan in the end: the last token of each of the
            plan's S suffixes (B, S, D), or what is read of images and prompt tokens (B, R + tokens, D).
        """
        for index in range(first, len(layers)):
            layer = layers[index]
            deep = prompt.deep[index - 1] if 0 < index <= len(prompt.deep) else None
            if deep is not None:
                hidden, plan = self._replaced(hidden, deep.to(hidden.dtype), place, plan)
                place = place[0], deep.shape[-2]
            read = self._read(hidden, plan, tokens) if index == len(layers) - 1 else None
            keys_values = prompt.keys_values[index] if index < len(prompt.keys_values) else None
            beside = prompt.beside[index] if index < len(prompt.beside) else None
            pack = None if plan is None else plan.pack
            hidden = self._layer(layer, hidden, keys_values, beside, pack, read)
        return hidden, plan

    def _read(self, hidden: Tensor, plan: Plan | None, tokens: int) -> Tensor | None:
        """Positions of what is read after the last layer; ``None`` is all."""
        if plan is not None:
            return plan.ends if self.backbone.read_text == "last" else None
        length, device = hidden.shape[1], hidden.device
        first = torch.arange(self.backbone.read_tokens, device=device)
        return torch.cat([first, torch.arange(length - tokens, length, device=device)]) if tokens else first

    def _replaced(
        self, hidden: Tensor, tokens: Tensor, place: tuple[int, int], plan: Plan | None
    ) -> tuple[Tensor, Plan | None]:
        """Hidden states (B, T, D) with other tokens, (n, D) or (K, n, D), at a place; and their plan."""
        (start, standing), rows = place, len(hidden)
        if plan is not None and (
            tokens.ndim == 3 or not plan.pack.causal or plan.pack.prefix < start + standing
        ):
            own = tokens.expand(len(plan.owners), -1, -1)  # (K, n, D)
            plan, index = plan.apart(start, standing, own.shape[1])
            both = torch.cat([hidden, own.flatten(0, 1).expand(rows, -1, -1)], 1)
            return both[:, index], plan
        hidden = torch.cat([hidden[:, :start], tokens.expand(rows, -1, -1), hidden[:, start + standing :]], 1)
        return hidden, None if plan is None else plan.resized(len(tokens) - standing)

    def _layer(
        self,
        layer: Any,
        hidden: Tensor,
        keys_values: KeyValue | None,
        beside: Beside | None,
        pack: Pack | None,
        read: Tensor | None,
    ) -> Tensor:
        """One layer (B, T, D) with what is added to it; where ``read`` is given, at these positions alone."""
        attention = self._attention(layer, keys_values, beside, pack)
        more = None
        if beside is not None:
            normed = self.backbone.parts(layer).norm(hidden)  # (B, T, D)
            seen = normed if read is None else normed[:, read]
            maps = (beside.query, seen), (beside.key, normed), (beside.value, normed), (beside.block, seen)
            *shifts, more = [None if f is None else f(x).to(hidden.dtype) for f, x in maps]
            attention = replace(attention, shifts=tuple(shifts))
        if read is None:
            hidden = self.backbone.run_layer(layer, hidden, attention)
        else:
            hidden = self.backbone.run_last_layer(layer, hidden, attention, read)
        return hidden if more is None else hidden + more

    def _frozen(self, layers: Sequence[nn.Module], hidden: Tensor, stop: int, pack: Pack | None) -> Tensor:
        """The layers before ``stop``, without prompts."""
        for index in range(stop):
            hidden = self.backbone.run_layer(layers[index], hidden, AttentionPrompt(pack))
        return hidden

    def _attention(
        self, layer: Any, prompt: KeyValue | None, beside: Beside | None, pack: Pack | None
    ) -> AttentionPrompt:
        if prompt is None or not prompt.count:
            return AttentionPrompt(pack)
        key, value = self.backbone.keys_values(layer, prompt.tokens)  # (..., h, c, d)
        if beside is not None:
            normed = self.backbone.parts(layer).norm(prompt.tokens)
            key, value = (
                x if f is None else x + heads(f(normed), x.shape[-1]).to(x.dtype)
                for x, f in ((key, beside.key), (value, beside.value))
            )
        return AttentionPrompt(pack, key, value, prompt.lengths, prompt.weights, prompt.log_gates)
