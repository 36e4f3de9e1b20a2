//! What belongs to the server rather than to an experiment: webhooks, gateway, MCP servers, users and roles.

use super::Export;
use crate::error::Result;
use crate::tracking::list::List;

/// Lists that are written as they come: file and kind, path, field of the items, whether it has pages.
const SETTINGS: [(&str, &str, &str, bool); 7] = [
    ("webhooks", "/api/2.0/mlflow/webhooks", "webhooks", true),
    ("gateway_secrets", "/api/3.0/mlflow/gateway/secrets/list", "secrets", false),
    ("gateway_models", "/api/3.0/mlflow/gateway/model-definitions/list", "model_definitions", false),
    ("gateway_endpoints", "/api/3.0/mlflow/gateway/endpoints/list", "endpoints", false),
    ("gateway_budgets", "/api/3.0/mlflow/gateway/budgets/list", "budget_policies", true),
    ("gateway_guardrails", "/api/3.0/mlflow/gateway/guardrails/list", "guardrails", true),
    ("mcp_servers", "/api/3.0/mlflow/mcp-servers", "mcp_servers", false),
];

/// The same for what the whole server has, also where there are workspaces.
const ACCESS: [(&str, &str, &str, bool); 2] =
    [("users", "/api/2.0/mlflow/users/list", "users", false), ("roles", "/api/3.0/mlflow/roles/list", "roles", false)];

impl Export<'_> {
    /// Writes webhooks, gateway and MCP servers. Secrets come masked.
    pub(super) fn settings(&mut self) -> Result<()> {
        SETTINGS.into_iter().try_for_each(|list| self.setting(list))
    }

    /// Writes users and roles, which only administrators of servers with passwords may list.
    pub(super) fn users(&mut self) -> Result<()> {
        ACCESS.into_iter().try_for_each(|list| self.setting(list))
    }

    fn setting(&mut self, (kind, path, items, has_pages): (&'static str, &str, &'static str, bool)) -> Result<()> {
        let mut list = List::get(kind.replace('_', " "), path, items, &[]);
        if has_pages {
            list = list.paged(1000);
        }
        let items = self.optional(&list)?;
        self.count(kind, items.len());
        self.files.write_all(&format!("{kind}.json"), &items)
    }
}
