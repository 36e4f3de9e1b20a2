//! Follows the tokens of a list that a server gives page by page.
//!
//! What must stay true: a list ends, whatever the server says. A token that came before leads to pages that were read
//! before, however many others came in between; and there is a bound for a server that invents a new token each time.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// The tokens that were followed. Each costs a few bytes, whatever its length.
#[derive(Debug)]
pub struct PageTokens {
    pages_max: usize,
    hasher: RandomState,
    followed: HashSet<u64>,
}

impl PageTokens {
    /// Begins a list of at most so many pages.
    pub fn new(pages_max: usize) -> Self {
        Self { pages_max, hasher: RandomState::new(), followed: HashSet::new() }
    }

    /// Takes note that the next page is the one of this token. Fails with a reason if the list then would not end.
    pub fn follow(&mut self, token: &str) -> Result<(), String> {
        if !self.followed.insert(self.hasher.hash_one(token)) {
            return Err("the list goes in circles: its next page is one that was read before".to_owned());
        }
        // The first page needs no token.
        if self.followed.len() >= self.pages_max {
            return Err(format!("the list did not end in {} pages", self.pages_max));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_came_before_is_refused_whatever_came_in_between() {
        let mut tokens = PageTokens::new(100);
        for token in ["a", "b", "c"] {
            tokens.follow(token).unwrap();
        }
        assert!(tokens.follow("a").unwrap_err().contains("in circles"));
    }

    #[test]
    fn a_list_that_always_has_a_new_token_ends_too() {
        let mut tokens = PageTokens::new(3);
        tokens.follow("1").unwrap();
        tokens.follow("2").unwrap();
        assert!(tokens.follow("3").unwrap_err().contains("3 pages"));
    }
}
