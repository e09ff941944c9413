"""The kinds of form fields that the dialogs use."""

from homeassistant.helpers.selector import (
    NumberSelector,
    NumberSelectorConfig,
    NumberSelectorMode,
    SelectOptionDict,
    SelectSelector,
    SelectSelectorConfig,
    SelectSelectorMode,
    TextSelector,
    TextSelectorConfig,
    TextSelectorType,
)


def select_field(
    options: list[str] | list[SelectOptionDict],
    *,
    translation_key: str | None = None,
    multiple: bool = False,
    custom_value: bool = False,
) -> SelectSelector:
    """Return a drop-down list; custom_value lets users write another value."""
    config = SelectSelectorConfig(
        options=options,
        multiple=multiple,
        custom_value=custom_value,
        mode=SelectSelectorMode.DROPDOWN,
    )
    if translation_key:
        config["translation_key"] = translation_key
    return SelectSelector(config)


def password_field() -> TextSelector:
    """Return a text field that hides what is written."""
    return TextSelector(
        TextSelectorConfig(
            type=TextSelectorType.PASSWORD, autocomplete="current-password"
        )
    )


def multiline_field() -> TextSelector:
    """Return a text field of several lines."""
    return TextSelector(TextSelectorConfig(multiline=True))


def number_field(
    minimum: float, maximum: float, *, step: float = 1, unit: str | None = None
) -> NumberSelector:
    """Return a field for a number between minimum and maximum.

    unit is a key of the translated units, None for a number without one.
    """
    config = NumberSelectorConfig(
        min=minimum, max=maximum, step=step, mode=NumberSelectorMode.BOX
    )
    if unit:
        config["unit_of_measurement"] = unit
        config["translation_key"] = "number"
    return NumberSelector(config)
