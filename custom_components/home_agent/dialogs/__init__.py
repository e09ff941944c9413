"""The dialogs of the config flow, their fields, and the check behind them."""
