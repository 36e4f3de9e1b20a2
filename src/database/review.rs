//! Reads a dump to its end before anything of it is run: what may not be run of it, and what rewrites would change.

use std::collections::BTreeSet;
use std::io::BufRead;

use super::Rewrite;
use super::rewrite::{RewriteCount, count_row};
use crate::error::Result;
use crate::sql::guard::{Guard, Refusals};
use crate::sql::scanner::TableHead;
use crate::sql::script::{Piece, ScriptReader};

/// What was found in a dump.
#[derive(Debug, Clone, Default)]
pub struct Review {
    /// What may not be run.
    pub refused: Refusals,
    /// Extensions that are passed over.
    pub extensions: BTreeSet<String>,
    /// Schemas that its tables are in.
    pub schemas: BTreeSet<String>,
    /// What each rewrite would change.
    pub counts: Vec<RewriteCount>,
}

/// Reads a dump to its end. Fails if it is not whole.
pub fn review<R: BufRead>(script: &mut ScriptReader<R>, guard: &Guard, rewrites: &[Rewrite]) -> Result<Review> {
    let mut found = Review { counts: vec![RewriteCount::default(); rewrites.len()], ..Review::default() };
    let mut table: Option<TableHead> = None;
    while let Some(piece) = script.next_piece()? {
        match piece {
            Piece::Statement(statement) => match guard.passes_over(&statement) {
                Some(extension) => drop(found.extensions.insert(extension)),
                None => guard.check(&statement).unwrap_or_else(|refused| found.refused.add(refused)),
            },
            Piece::Table(head) => {
                guard.check_table(&head, script.line_number()).unwrap_or_else(|refused| found.refused.add(refused));
                found.schemas.extend(head.schema.clone());
                table = Some(head);
            }
            Piece::Row(row) => {
                let Some(head) = &table else { continue };
                for (rewrite, count) in rewrites.iter().zip(&mut found.counts).filter(|(it, _)| it.table == head.name) {
                    count_row(count, rewrite, head, &row);
                }
            }
            Piece::TableEnd => {}
        }
    }
    Ok(found)
}
