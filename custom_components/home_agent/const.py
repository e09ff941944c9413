"""The configuration keys of Home Agent and their defaults."""

from typing import Final

DOMAIN: Final = "home_agent"

# The id of the subentry that a flat configuration was made from. It is not a setting.
CONF_SUBENTRY_ID: Final = "subentry_id"

SUBENTRY_CONVERSATION: Final = "conversation"
SUBENTRY_EXTERNAL_LLM: Final = "external_llm"
SUBENTRY_EMBEDDING: Final = "embedding"
# Home Assistant's name for it, shared by all integrations with an AI task entity.
SUBENTRY_AI_TASK: Final = "ai_task_data"

# The primary LLM. The config entry stores the connection: base_url, api_key,
# proxy_headers, server_kind and keep_alive_refused. A subentry stores the rest.
CONF_LLM_BASE_URL: Final = "llm_base_url"
CONF_LLM_API_KEY: Final = "llm_api_key"
CONF_LLM_HEADERS: Final = "llm_proxy_headers"
CONF_LLM_SERVER_KIND: Final = "llm_server_kind"
# Whether the user has chosen the kind of the server; otherwise it is detected.
CONF_LLM_SERVER_KIND_CHOSEN: Final = "llm_server_kind_chosen"
CONF_LLM_KEEP_ALIVE_REFUSED: Final = "llm_keep_alive_refused"
# Where the OpenAI-compatible API is, if it is not at the usual place.
CONF_LLM_API_BASE: Final = "llm_api_base"
# Whether the user calls a server at a public address their own.
CONF_LLM_SERVER_IS_OWN: Final = "llm_server_is_own"
CONF_LLM_IDLE_TIMEOUT: Final = "llm_idle_timeout"
CONF_LLM_MODEL: Final = "llm_model"
CONF_LLM_KEEP_ALIVE: Final = "llm_keep_alive"
CONF_LLM_TEMPERATURE: Final = "llm_temperature"
CONF_LLM_TOP_P: Final = "llm_top_p"
CONF_LLM_MAX_TOKENS: Final = "llm_max_tokens"
CONF_LLM_NUM_CTX: Final = "llm_num_ctx"
CONF_LLM_THINK: Final = "llm_think"
CONF_LLM_STREAM: Final = "llm_stream"
CONF_LLM_WARM_UP: Final = "llm_warm_up"
CONF_MAX_HISTORY: Final = "max_history"
CONF_EXTERNAL_LLMS: Final = "external_llms"
CONF_ENTITY_MODE: Final = "entity_mode"
CONF_RETRIEVAL_THRESHOLD: Final = "retrieval_threshold"
CONF_RETRIEVAL_LIMIT: Final = "retrieval_limit"
CONF_TELL_TIME: Final = "tell_time"

# The external LLM: the primary LLM can ask it with a tool.
CONF_EXTERNAL_LLM_BASE_URL: Final = "external_llm_base_url"
CONF_EXTERNAL_LLM_API_KEY: Final = "external_llm_api_key"
CONF_EXTERNAL_LLM_MODEL: Final = "external_llm_model"
CONF_EXTERNAL_LLM_KEEP_ALIVE: Final = "external_llm_keep_alive"
CONF_EXTERNAL_LLM_STREAM: Final = "external_llm_stream"
CONF_EXTERNAL_LLM_WARM_UP: Final = "external_llm_warm_up"
CONF_EXTERNAL_LLM_PROMPT: Final = "external_llm_prompt"
CONF_EXTERNAL_LLM_TOOL_DESCRIPTION: Final = "external_llm_tool_description"
CONF_EXTERNAL_LLM_CONVERSATION: Final = "external_llm_conversation"
# Whether every agent with the Assist API gets the tool, of any integration.
CONF_EXTERNAL_LLM_FOR_ALL_AGENTS: Final = "external_llm_for_all_agents"

# The embedding model.
CONF_EMBEDDING_BASE_URL: Final = "embedding_base_url"
CONF_EMBEDDING_API_KEY: Final = "embedding_api_key"
CONF_EMBEDDING_MODEL: Final = "embedding_model"
CONF_EMBEDDING_KEEP_ALIVE: Final = "embedding_keep_alive"
CONF_EMBEDDING_WARM_UP: Final = "embedding_warm_up"
CONF_EMBEDDING_BATCH_SIZE: Final = "embedding_batch_size"
CONF_EMBEDDING_SEARCH_TOOL: Final = "embedding_search_tool"
CONF_VECTOR_STORE: Final = "vector_store"
CONF_CHROMA_URL: Final = "chroma_url"
CONF_CHROMA_API_KEY: Final = "chroma_api_key"

DEFAULT_LLM_KEEP_ALIVE: Final = "5m"
DEFAULT_EXTERNAL_LLM_KEEP_ALIVE: Final = "5m"
DEFAULT_EMBEDDING_KEEP_ALIVE: Final = "5m"
# In tokens. Home Assistant's own Ollama integration sends the same value: with
# different values, Ollama would reload the model each time the other one uses it.
DEFAULT_NUM_CTX: Final = 8192
# In seconds.
DEFAULT_IDLE_TIMEOUT: Final = 300
# Tokens of one answer; a model that repeats itself, or thinks without end, is cut off.
DEFAULT_MAX_TOKENS: Final = 4096
# In turns: a user message and everything up to the answer.
DEFAULT_MAX_HISTORY: Final = 20
# With this many exposed entities or more, retrieval replaces the list of all entities.
DEFAULT_RETRIEVAL_THRESHOLD: Final = 150
# The maximum number of entities that retrieval sends with each question.
DEFAULT_RETRIEVAL_LIMIT: Final = 10
DEFAULT_EMBEDDING_BATCH_SIZE: Final = 32
