"""Classifiers on the Hugging Face hub, by ``huggingface_hub``'s own mixin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelHubMixin, snapshot_download

from vlprompt.errors import UserError
from vlprompt.estimator import artifact


class HubMixin(ModelHubMixin):
    """``from_pretrained``, ``save_pretrained``, ``push_to_hub``, made of ``load`` and ``save_into``."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name: str | Path, *, model: str = "", device: str = "auto", method: str = "", **where: Any
    ) -> Self:
        """Read a classifier from the hub or from a folder.

        Args:
            name: ``owner/name`` on the hub, or a local folder.
            model, device, method: as for ``load``.
            where: ``revision``, ``token``, ``cache_dir``, ``force_download``, ``local_files_only`` of
                ``huggingface_hub``.

        Raises:
            UserError: not there, no network, damaged; the backbone is missing or is another.
        """
        load_options = {"model": model, "device": device, "method": method}
        try:
            return super().from_pretrained(name, load_options=load_options, **where)
        except (
            OSError,
            ValueError,
            RecursionError,
            TypeError,
            AttributeError,
        ) as error:  # of which the hub's own errors are kinds
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise UserError(
                f"classifier '{name}' cannot be had ({reason}): give a folder made by 'vlprompt fit --out', "
                "or owner/name on the hub"
            ) from error

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        load_options: dict[str, str],
        **config: Any,
    ) -> Self:
        """Called by the mixin, with the artifact's configuration that ``load`` reads for itself."""
        folder = model_id
        if not Path(model_id).is_dir():
            folder = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=[artifact.PROMPTS, artifact.CONFIG, artifact.HISTORY],
            )
        return cls.load(folder, **load_options)  # type: ignore[attr-defined]

    def _save_pretrained(self, save_directory: Path) -> None:
        """Called by the mixin, also before it uploads."""
        self.save_into(save_directory)  # type: ignore[attr-defined]
