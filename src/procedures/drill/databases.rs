//! Reads the restored databases again, and compares them with what the snapshot has recorded.
//!
//! What must stay true: nothing that the restore knows is used. The databases are opened and read as a backup reads them, and
//! dump, schema and catalogue are made anew.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::work::Work;
use crate::catalogue::reader::{for_each, read_all};
use crate::database::load::difference;
use crate::error::{Error, Result};
use crate::format::evidence::{DrilledTable, TABLES_MAX};
use crate::format::snapshot::{CATALOGUE, DATABASE};
use crate::mlflow::catalogue::{REFERENCES, Reference, SPECS, StoredTable, TABLES, file_name};
use crate::mlflow::schema::ReferenceKind;
use crate::source::inventory::{self, Claim, OpenDatabase};
use crate::sql::TableRecord;
use crate::trees::contents::entry_at;
use crate::trees::file_reader::FileReader;

/// Rows that a difference of references names.
const NAMED_MAX: usize = 10;
/// Longest line of the catalogue that is compared.
const LINE_LEN_MAX: u64 = 64 << 20;

/// What was read of the databases.
#[derive(Debug, Default)]
pub struct ReadDatabases {
    /// Their tables.
    pub tables: Vec<DrilledTable>,
    /// What they are served by, and what read them.
    pub tools: BTreeSet<String>,
}

/// Compares all databases: rows, schema, catalogue.
pub fn compare(work: &Work<'_>) -> Result<ReadDatabases> {
    work.hears.monitor.phase("compare databases", None, None);
    let mut read = ReadDatabases::default();
    let mut databases = OpenDatabase::open_all(work.restored, work.directory, &work.hears.cancel)?;
    let stored: Vec<StoredTable> = read_all(&work.reader, work.snapshot, TABLES, work.hears)?;
    for database in &mut databases {
        let name = format!("{DATABASE}/{}", database.store.name());
        let facts = database.reader.facts();
        read.tools.insert(format!("{} {}", facts.engine.name(), facts.server_version));
        read.tools.insert(format!("dump by {} {}", facts.engine.name(), facts.dump_version));
        work.findings.check(&name, || compare_schema(work, database, &name))?;
        let tables = work.findings.check(&name, || compare_tables(work, database, &stored, &name))?;
        read.tables.extend(tables.unwrap_or_default());
        read.tables.truncate(TABLES_MAX);
    }
    for record in work.record.databases.iter().filter(|record| !databases.iter().any(|it| it.store == record.store)) {
        work.findings.failure(&format!("{DATABASE}/{}", record.store.name()), "it was not restored");
    }
    work.findings.check(CATALOGUE, || compare_catalogue(work, &mut databases))?;
    Ok(read)
}

fn compare_schema(work: &Work<'_>, database: &mut OpenDatabase, name: &str) -> Result<()> {
    let store = database.store;
    let revisions = database.revisions()?;
    let recorded = work.record.database(store).map(|record| record.revisions.clone()).unwrap_or_default();
    if revisions != recorded {
        let (found, recorded) = (revisions.join(", "), recorded.join(", "));
        work.findings.failure(name, &format!("its schema is {found:?} instead of {recorded:?}"));
    }
    Ok(())
}

/// Dumps a database again, and compares rows and digests of all tables.
fn compare_tables(
    work: &Work<'_>,
    database: &mut OpenDatabase,
    stored: &[StoredTable],
    name: &str,
) -> Result<Vec<DrilledTable>> {
    let store = database.store;
    let mut dump = database.reader.dump()?;
    io::copy(&mut dump, &mut io::sink()).map_err(|error| Error::database("dump", name, error))?;
    let tables = dump.finish()?.tables;
    let expected: Vec<TableRecord> =
        stored.iter().filter(|table| table.store == store).map(|table| table.table.clone()).collect();
    if let Some(difference) = difference(&expected, &tables) {
        work.findings.failure(name, &difference);
    }
    let drilled = |table: TableRecord| DrilledTable { store, name: table.name, rows: table.rows, digest: table.digest };
    Ok(tables.into_iter().map(drilled).collect())
}

/// Makes the catalogue anew, and compares it line by line.
fn compare_catalogue(work: &Work<'_>, databases: &mut [OpenDatabase]) -> Result<()> {
    work.hears.monitor.phase("compare catalogue", None, None);
    let directory = work.directory.join(CATALOGUE);
    std::fs::create_dir(&directory).map_err(|source| Error::target("create", directory.clone(), source))?;
    let map = work.restored.layout()?.map;
    let inventory = inventory::read(databases, &map, Some(&directory), &work.hears.cancel)?;
    work.findings.check(CATALOGUE, || inventory.check_roots())?;
    for spec in &SPECS {
        let name = file_name(spec.file);
        let subject = format!("{CATALOGUE}/{name}");
        let difference = work.findings.check(&subject, || difference_of_file(work, &directory.join(&name), &name))?;
        if let Some(difference) = difference.flatten() {
            work.findings.failure(&subject, &difference);
        }
    }
    compare_references(work, &inventory.claims)
}

/// Says where a file of the catalogue differs from the one in the snapshot, if it does.
fn difference_of_file(work: &Work<'_>, made: &Path, name: &str) -> Result<Option<String>> {
    let entry = entry_at(&work.reader, work.component(CATALOGUE)?, name.as_bytes())?;
    let fault = |source| Error::source("read", made.to_owned(), source);
    let (entry, made) = match (entry, made.exists()) {
        (None, false) => return Ok(None),
        (Some(_), false) => return Ok(Some("its table is not in the restored database".to_owned())),
        (None, true) => return Ok(Some("its table is not in the snapshot".to_owned())),
        (Some(entry), true) => (entry, File::open(made).map_err(fault)?),
    };
    let mut stored = BufReader::new(FileReader::open(&work.reader, &entry, work.hears)?);
    let mut made = BufReader::new(made);
    for number in 1_u64.. {
        work.hears.check()?;
        let (one, other) = (next_line(&mut stored, name)?, next_line(&mut made, name)?);
        match (one.is_empty(), other.is_empty()) {
            (true, true) => break,
            _ if one == other => {}
            (false, true) => return Ok(Some(format!("it ends before line {number}"))),
            (true, false) => return Ok(Some(format!("it has more lines than {}", number - 1))),
            (false, false) => return Ok(Some(format!("line {number} is not the one in the snapshot"))),
        }
    }
    Ok(None)
}

fn next_line(lines: &mut impl BufRead, name: &str) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    let read = lines.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line);
    read.map_err(|error| Error::damaged(format!("{CATALOGUE}/{name}"), error))?;
    Ok(line)
}

/// Compares what the rows of the restored databases claim to have with the references of the snapshot.
fn compare_references(work: &Work<'_>, claims: &[Claim]) -> Result<()> {
    type Key = (ReferenceKind, String, String);
    let made: BTreeSet<Key> = claims.iter().map(|it| (it.kind, it.id.clone(), it.uri.clone())).collect();
    let mut stored: BTreeSet<Key> = BTreeSet::new();
    for_each(&work.reader, work.snapshot, REFERENCES, work.hears, &mut |reference: Reference| {
        stored.insert((reference.kind, reference.id, reference.uri));
        Ok(())
    })?;
    let subject = format!("{CATALOGUE}/{}", file_name(REFERENCES));
    for (missing, what) in [(&stored - &made, "no restored row has"), (&made - &stored, "the snapshot does not have")] {
        if missing.is_empty() {
            continue;
        }
        let named: Vec<_> =
            missing.iter().take(NAMED_MAX).map(|(kind, id, _)| format!("{} {id}", kind.words())).collect();
        work.findings.failure(&subject, &format!("{what} {} of its references: {}", missing.len(), named.join(", ")));
    }
    Ok(())
}
