//! Cuts long lists into requests that MLflow takes.
//!
//! What must stay true: order and number of the items are kept; no batch exceeds a limit, unless one item does alone.

use serde_json::Value;

/// Most points of metrics in a request.
pub const POINTS_MAX: usize = 1000;
/// Most parameters, or tags, in a request.
pub const PAIRS_MAX: usize = 100;
/// Longest list in a request, in bytes: MLflow takes a request of 1 MB.
const BYTES_MAX: usize = 900_000;

/// Cuts a list.
pub fn cut(items: Vec<Value>, items_max: usize) -> Vec<Vec<Value>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for item in items {
        let len = item.to_string().len() + 1;
        if !batch.is_empty() && (batch.len() == items_max || bytes + len > BYTES_MAX) {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += len;
        batch.push(item);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn batches_keep_order_and_limits(lens in proptest::collection::vec(0..300_000usize, 0..40), items_max in 1..10usize) {
            let items: Vec<Value> = lens.iter().map(|len| json!("x".repeat(*len))).collect();
            let batches = cut(items.clone(), items_max);
            for batch in &batches {
                prop_assert!(!batch.is_empty() && batch.len() <= items_max);
                prop_assert!(json!(batch).to_string().len() <= BYTES_MAX + 2);
            }
            prop_assert_eq!(batches.concat(), items);
        }
    }
}
