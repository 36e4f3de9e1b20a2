//! Lists of the API, read page by page although they may change meanwhile.
//!
//! A page is an offset, not a place: if an item goes away after the first page, the one that begins the second page moves
//! into the first and is never seen. So a list of several pages is read again until nothing has gone away since the pass
//! before: then that pass hid nothing.
//!
//! What must stay true: every item that any pass saw is handed on, once; whether passes differed is told; a list ends,
//! whatever the server says.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::client::TrackingClient;
use super::json;
use crate::error::{Error, Fault, Result};
use crate::page_tokens::PageTokens;

/// Most often that a list is read because it changes.
const PASSES_MAX: u32 = 5;

/// Most pages of a list, of which each has up to thousands of items.
const PAGES_MAX: usize = 1_000_000;

/// Tag of MLflow that tells a prompt from a registered model.
pub const IS_PROMPT: &str = "mlflow.prompt.is_prompt";

/// A list of the API.
#[derive(Debug, Clone)]
pub struct List {
    /// What it lists, for the summary.
    pub what: String,
    path: String,
    is_search: bool,
    request: Map<String, Value>,
    items: &'static str,
    id: &'static [&'static str],
    page_items: Option<u32>,
}

/// What was noticed when passes over a list differed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Items that a later pass found: new ones, or passed over before.
    pub found_later: u64,
    /// Items that were not in the last pass any more.
    pub vanished: u64,
    /// Whether the last pass still had everything that the one before had.
    pub is_settled: bool,
}

impl List {
    /// A list that a GET gives; `id` is the way to the field that tells its items apart, empty for the whole item.
    pub fn get(what: impl Into<String>, path: &str, items: &'static str, id: &'static [&'static str]) -> Self {
        let (what, path) = (what.into(), path.to_owned());
        Self { what, path, is_search: false, request: Map::new(), items, id, page_items: None }
    }

    /// A list that a POST gives.
    pub fn search(what: impl Into<String>, path: &str, items: &'static str, id: &'static [&'static str]) -> Self {
        Self { is_search: true, ..Self::get(what, path, items, id) }
    }

    /// Asks for pages of so many items.
    pub fn paged(mut self, items: u32) -> Self {
        self.page_items = Some(items);
        self
    }

    /// Adds a field to the request.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.request.insert(name.to_owned(), value.into());
        self
    }

    /// Reads the list, and reads it again if it has several pages and may have changed.
    pub fn read(
        &self,
        client: &TrackingClient,
        page_items_max: Option<u32>,
        each: &mut dyn FnMut(Vec<Value>) -> Result<()>,
    ) -> Result<Difference> {
        let mut difference = Difference::default();
        let (mut seen, mut last_pass) = (HashSet::new(), HashSet::new());
        for pass in 0..PASSES_MAX {
            let mut in_this_pass = HashSet::new();
            let mut fresh = 0;
            let pages = self.pass(client, page_items_max, &mut |items| {
                let items: Vec<Value> = items
                    .into_iter()
                    .filter(|item| in_this_pass.insert(self.id(item)) && !seen.contains(&self.id(item)))
                    .collect();
                fresh += items.len() as u64;
                if items.is_empty() { Ok(()) } else { each(items) }
            })?;
            if pass > 0 {
                difference.found_later += fresh;
            }
            difference.vanished = seen.difference(&in_this_pass).count() as u64;
            // One page is one answer, and nothing is hidden in it. Nor in the pass before, if nothing went away since.
            difference.is_settled = pages == 1 || (pass > 0 && last_pass.is_subset(&in_this_pass));
            seen.extend(in_this_pass.iter().cloned());
            last_pass = in_this_pass;
            if difference.is_settled {
                break;
            }
        }
        Ok(difference)
    }

    /// Reads the whole list into memory, ordered by ids.
    pub fn collect(&self, client: &TrackingClient, page_items_max: Option<u32>) -> Result<(Vec<Value>, Difference)> {
        let mut all = Vec::new();
        let difference = self.read(client, page_items_max, &mut |items| {
            all.extend(items);
            Ok(())
        })?;
        // Numbers that are written as texts are in order of their size.
        all.sort_by_cached_key(|item| {
            let id = self.id(item);
            (id.len() * usize::from(id.bytes().all(|byte| byte.is_ascii_digit())), id)
        });
        Ok((all, difference))
    }

    /// Reads all pages once. Returns how many there were.
    fn pass(
        &self,
        client: &TrackingClient,
        page_items_max: Option<u32>,
        each: &mut dyn FnMut(Vec<Value>) -> Result<()>,
    ) -> Result<u32> {
        let mut request = self.request.clone();
        if let Some(items) = self.page_items {
            request.insert("max_results".to_owned(), json!(page_items_max.unwrap_or(items).min(items)));
        }
        let mut tokens = PageTokens::new(PAGES_MAX);
        let mut pages = 0;
        loop {
            let mut answer = self.page(client, &request)?;
            pages += 1;
            each(self.take_items(&mut answer).ok_or_else(|| self.bad_answer(client, "it is not a list"))?)?;
            let token = json::text(&answer, "next_page_token");
            if token.is_empty() {
                return Ok(pages);
            }
            tokens.follow(token).map_err(|reason| self.bad_answer(client, reason))?;
            request.insert("page_token".to_owned(), json!(token));
        }
    }

    fn page(&self, client: &TrackingClient, request: &Map<String, Value>) -> Result<Value> {
        if self.is_search {
            return client.search(&self.path, &Value::Object(request.clone()));
        }
        let texts: Vec<(&str, String)> = request
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect();
        let query: Vec<(&str, &str)> = texts.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client.get(&self.path, &query)
    }

    /// Returns the items of an answer, put in order; none if it does not hold a list. MLflow leaves out empty lists, and
    /// puts some into a text.
    fn take_items(&self, answer: &mut Value) -> Option<Vec<Value>> {
        let mut items = answer.as_object_mut()?.remove(self.items).unwrap_or(Value::Null);
        if let Value::String(text) = &items {
            items = json::parse(text.as_bytes()).ok()?;
        }
        json::put_in_order(&mut items);
        match items {
            Value::Array(items) => Some(items),
            Value::Null => Some(Vec::new()),
            _ => None,
        }
    }

    fn bad_answer(&self, client: &TrackingClient, reason: impl Into<String>) -> Error {
        Error::tracking(Fault::BadAnswer, "list", format!("{}{}", client.uri(), self.path), reason.into())
    }

    fn id(&self, item: &Value) -> String {
        let found = self.id.iter().try_fold(item, |value, field| value.get(field));
        match found {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => item.to_string(),
        }
    }
}

/// Lists the versions of a registered model or prompt; none if its name has both kinds of quotes.
pub fn versions_of(name: &str, is_prompt: bool) -> Option<List> {
    // A search of the registry leaves prompts out unless it asks for them.
    let condition = if is_prompt { format!(" AND tag.`{IS_PROMPT}` = 'true'") } else { String::new() };
    let path = "/api/2.0/mlflow/model-versions/search";
    let list = List::get(format!("versions of {name:?}"), path, "model_versions", &["version"]);
    Some(list.with("filter", format!("name = {}{condition}", quote(name)?)).paged(10_000))
}

/// Quotes a name for a filter, which has no way to escape a quote.
fn quote(name: &str) -> Option<String> {
    ['\'', '"'].into_iter().find(|quote| !name.contains(*quote)).map(|quote| format!("{quote}{name}{quote}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_list_is_not_taken_for_an_empty_one() {
        let list = List::get("runs", "/runs", "runs", &["id"]);
        let items = |mut answer: Value| list.take_items(&mut answer);
        assert_eq!(items(json!({})), Some(vec![]));
        assert_eq!(items(json!({ "runs": null })), Some(vec![]));
        assert_eq!(items(json!({ "runs": "[{\"id\": 1}]" })), Some(vec![json!({ "id": 1 })]));
        for answer in [json!(null), json!([]), json!({ "runs": 1 }), json!({ "runs": "nonsense" })] {
            assert_eq!(items(answer.clone()), None, "{answer}");
        }
    }

    #[test]
    fn names_are_quoted_with_the_quote_that_they_do_not_have() {
        assert_eq!(quote("a b").unwrap(), "'a b'");
        assert_eq!(quote("it's").unwrap(), "\"it's\"");
        assert_eq!(quote("'\""), None);
    }
}
