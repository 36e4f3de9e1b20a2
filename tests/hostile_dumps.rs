//! Dumps that somebody has tampered with, and what a restore makes of them: nothing that they hold is run.
//!
//! The server of these tests is reached as its superuser, who may do all that the dumps try.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mlvault::cancel::Cancel;
use mlvault::database::review::review;
use mlvault::database::uri::DatabaseUri;
use mlvault::database::{Dumped, open_reader, open_writer};
use mlvault::error::Error;
use mlvault::sql::Dialect;
use mlvault::sql::guard::{Guard, Refusals};
use mlvault::sql::script::ScriptReader;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::support::cli::Runner;
use crate::support::deployment::{Place, ThreeDays};
use crate::support::dumps::load;
use crate::support::mlflow_rows;
use crate::support::mlflow_server::{ADMIN_PASSWORD, MlflowOptions, MlflowServer};
use crate::support::postgres_server::{OWNER, PASSWORD, PostgresServer};

/// Attacks, each with a part of the reason why it is refused. `CANARY` is a file that the server could write.
const ATTACKS: &[(&str, &str)] = &[
    // Programs and files of the server.
    ("COPY (SELECT 1) TO PROGRAM 'touch CANARY';", "no such statement"),
    ("COPY public.runs FROM PROGRAM 'touch CANARY';", "no such statement"),
    ("copy (select 1) to 'CANARY';", "no such statement"),
    ("COPY public.runs (run_uuid) FROM STDIN ;", "no such statement"),
    ("SELECT pg_catalog.lo_export(pg_catalog.lo_from_bytea(0, '\\x41'), 'CANARY');", "\"lo_export\" has no place"),
    ("SELECT pg_catalog.lo_create('4711');", "\"lo_create\" has no place"),
    ("SELECT pg_catalog.pg_read_file('/etc/passwd');", "\"pg_read_file\" has no place"),
    ("SELECT pg_catalog.set_config('search_path', 'public', false);", "nothing but an empty search_path"),
    ("SELECT pg_catalog.setval('public.x', (SELECT 1), true);", "has no place"),
    ("DO $$ BEGIN COPY (SELECT 1) TO PROGRAM 'touch CANARY'; END $$;", "no such statement"),
    ("DO LANGUAGE plpgsql 'BEGIN COPY (SELECT 1) TO ''CANARY''; END';", "no such statement"),
    ("LOAD '/tmp/evil.so';", "no such statement"),
    ("ALTER SYSTEM SET archive_command = 'touch CANARY';", "no such statement"),
    // Code that runs later.
    ("CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;", "not MLflow's"),
    (
        "CREATE FUNCTION public.prevent_secrets_aad_mutation() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN\nEND;\n$$;",
        "not MLflow's",
    ),
    ("CREATE FUNCTION public.f() RETURNS int LANGUAGE c AS 'libc.so.6', 'system';", "not MLflow's"),
    ("CREATE OR REPLACE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1';", "no such statement"),
    ("CREATE FUNCTION public.f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END;", "several statements"),
    ("CREATE TRIGGER t BEFORE INSERT ON public.runs FOR EACH ROW EXECUTE FUNCTION public.f();", "has no place"),
    ("CREATE TRIGGER t BEFORE UPDATE ON public.runs FOR EACH ROW EXECUTE FUNCTION public.f();", "not MLflow's"),
    ("CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE FUNCTION public.f();", "no such statement"),
    ("CREATE RULE r AS ON INSERT TO public.runs DO ALSO SELECT 1;", "no such statement"),
    ("CREATE POLICY p ON public.runs USING (true);", "no such statement"),
    ("CREATE VIEW public.v AS SELECT pg_catalog.pg_read_file('/etc/passwd');", "no such statement"),
    ("CREATE MATERIALIZED VIEW public.v AS SELECT 1;", "no such statement"),
    ("CREATE EXTENSION IF NOT EXISTS file_fdw WITH SCHEMA public CASCADE;", "no such statement"),
    ("CREATE LANGUAGE plpython3u;", "no such statement"),
    ("CREATE TRUSTED PROCEDURAL LANGUAGE x HANDLER public.f;", "no such statement"),
    ("CREATE CAST (text AS integer) WITH FUNCTION public.f(text) AS IMPLICIT;", "no such statement"),
    ("CREATE OPERATOR public.= (FUNCTION = public.f, LEFTARG = text, RIGHTARG = text);", "no such statement"),
    ("CREATE TYPE public.t (INPUT = public.f, OUTPUT = public.f);", "no such statement"),
    ("CREATE DOMAIN public.d AS text CHECK (public.f() IS NULL);", "no such statement"),
    ("CREATE SERVER s FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host 'evil.example');", "no such statement"),
    ("CREATE SUBSCRIPTION s CONNECTION 'host=evil.example' PUBLICATION p;", "no such statement"),
    // Expressions.
    ("CREATE TABLE public.e (a text DEFAULT pg_read_file('/etc/passwd'));", "it calls \"pg_read_file\""),
    ("CREATE TABLE public.e (a text DEFAULT pg_catalog.pg_read_file('/etc/passwd'));", "\".\" has no place"),
    ("CREATE TABLE public.e (a text DEFAULT (SELECT 1));", "\"SELECT\" has no place"),
    ("CREATE TABLE public.e (a text DEFAULT public.f());", "\".\" has no place"),
    ("CREATE TABLE public.e (a oid DEFAULT lo_import('/etc/passwd'));", "not on the list"),
    ("CREATE TABLE public.e (a integer DEFAULT 'f'::regproc);", "not on the list"),
    ("CREATE TABLE public.e (a text DEFAULT nextval(CAST(1 AS regclass)));", "has no place"),
    (
        "CREATE TABLE public.e (a text, CONSTRAINT c CHECK ((\"pg_read_file\"(a) IS NULL)));",
        "it calls \"pg_read_file\"",
    ),
    ("CREATE TABLE public.e (a text, CONSTRAINT c CHECK ((e.f IS NULL)));", "\".\" has no place"),
    ("CREATE TABLE public.e (a text, CONSTRAINT c CHECK ((a OPERATOR(public.=) a)));", "it calls \"OPERATOR\""),
    ("CREATE TABLE public.e (a text, CONSTRAINT c CHECK ((regproc 'f' IS NULL)));", "a text in it"),
    ("CREATE TABLE public.e (a text, CONSTRAINT c CHECK ((a @@ a)));", "\"@@\" has no place"),
    ("CREATE TABLE public.e (a public.t);", "not on the list"),
    (
        "CREATE TABLE public.e (a text GENERATED ALWAYS AS (query_to_xml('x', true, true, '')) STORED);",
        "it calls \"query_to_xml\"",
    ),
    ("CREATE TABLE public.e AS SELECT pg_catalog.pg_sleep(1);", "\"AS\" has no place"),
    ("CREATE TABLE public.e (a text) INHERITS (pg_catalog.pg_authid);", "\"INHERITS\" has no place"),
    ("CREATE TABLE public.e (LIKE pg_catalog.pg_authid);", "not on the list"),
    ("CREATE TABLE pg_catalog.e (a text);", "schema of the system"),
    ("CREATE TABLE \"pg_temp\".e (a text);", "schema of the system"),
    ("CREATE TABLE e (a text);", "\"(\" has no place"),
    ("CREATE INDEX i ON public.runs USING btree (public.f(run_uuid));", "\".\" has no place"),
    ("CREATE INDEX i ON public.runs USING btree (((pg_read_file(run_uuid))));", "it calls \"pg_read_file\""),
    ("CREATE INDEX i ON public.runs USING btree (run_uuid) WHERE (pg_sleep(1) IS NULL);", "it calls \"pg_sleep\""),
    ("CREATE INDEX i ON public.runs USING btree (run_uuid public.evil_ops);", "has no place"),
    ("CREATE INDEX i ON public.runs USING evil (run_uuid);", "\"evil\" has no place"),
    (
        "ALTER TABLE ONLY public.runs ALTER COLUMN name SET DEFAULT pg_read_file('/etc/passwd');",
        "it calls \"pg_read_file\"",
    ),
    ("ALTER TABLE public.runs ENABLE ALWAYS TRIGGER t;", "has no place"),
    ("ALTER TABLE public.runs OWNER TO evil;", "has no place"),
    ("ALTER TABLE ONLY public.runs ADD CONSTRAINT c EXCLUDE USING gist (a WITH =);", "has no place"),
    ("ALTER TABLE ONLY pg_catalog.pg_authid ADD CONSTRAINT c CHECK (true);", "schema of the system"),
    // Roles, settings, other statements.
    ("GRANT ALL ON public.runs TO PUBLIC;", "no such statement"),
    ("ALTER ROLE owner PASSWORD 'known';", "no such statement"),
    ("SET SESSION AUTHORIZATION evil;", "has no place"),
    ("SET ROLE evil;", "has no place"),
    ("SET search_path = public;", "does not set \"search_path\""),
    ("SET client_encoding = 'GB18030';", "does not set \"client_encoding\""),
    ("SET session_replication_role = replica;", "does not set"),
    ("SET standard_conforming_strings TO off;", "has no place"),
    ("SET session_preload_libraries = 'evil';", "does not set"),
    ("INSERT INTO public.runs (run_uuid) VALUES ('x');", "no such statement"),
    ("DROP TABLE public.runs;", "no such statement"),
    ("EXPLAIN ANALYZE SELECT 1;", "no such statement"),
    // Text that is not what it seems.
    ("-- a comment that ends early\rCOPY (SELECT 1) TO PROGRAM 'touch CANARY';", "no such statement"),
    ("COMMENT ON TABLE public.runs IS E'\\'; COPY (SELECT 1) TO ''CANARY''; --';", "escapes"),
    ("COMMENT ON TABLE public.runs IS U&'\\0027';", "has no place"),
    ("COMMENT ON TABLE public.runs IS $$x$$;", "a text in it"),
    ("COMMENT ON TABLE public.runs IS /* /* */ ; */ 'x';", "comment"),
    ("COMMENT ON TABLE public.runs IS -- y\n'x';", "comment"),
    ("COMMENT ON TABLE public.runs IS 'a\0b';", "zero byte"),
    ("COMMENT ON SCHEMA public IS 'x'; COPY (SELECT 1) TO PROGRAM 'touch CANARY';", "no such statement"),
    ("CREATE TABLE public.\"e\n;\n\" (a text DEFAULT pg_read_file('x'));", "it calls \"pg_read_file\""),
    // Rows of what is not a table of the dump.
    ("COPY pg_catalog.pg_authid (rolname) FROM stdin;\nevil\n\\.\n", "table of the system"),
    (
        "COPY public.alembic_version (version_num) FROM stdin;\nx\n\\.\nCOPY (SELECT 1) TO 'CANARY';\n",
        "no such statement",
    ),
];

/// Attacks that no dump can even be read with.
const UNREADABLE: &[(&str, &str)] = &[
    ("\\! touch CANARY", "command to psql"),
    ("\\connect template1", "command to psql"),
    ("\\i /tmp/evil.sql", "command to psql"),
    ("SET standard_conforming_strings = off;", "do not follow the standard"),
    ("COMMIT; BEGIN; DROP TABLE public.runs;", "ends the transaction"),
    ("ROLLBACK;", "ends the transaction"),
    ("COPY public.alembic_version FROM stdin;\nx\ty\n\\.\n", "columns"),
];

/// The line that attacks are put before: that of the second table.
const BEFORE: &str = "CREATE TABLE public.assessments (";

fn dump(uri: &DatabaseUri) -> (String, Dumped) {
    let scratch = TempDir::new().unwrap();
    let mut reader = open_reader(uri, scratch.path(), &Cancel::default()).unwrap();
    let mut stream = reader.dump().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    (text, stream.finish().unwrap())
}

fn refused(text: &str) -> mlvault::error::Result<Refusals> {
    let mut script = ScriptReader::new(text.as_bytes(), Dialect::Postgresql);
    let guard = Guard::new(Dialect::Postgresql, &[]);
    review(&mut script, &guard, &[]).map(|found| found.refused)
}

#[test]
fn a_dump_that_was_tampered_with_is_refused_before_and_while_it_is_loaded() {
    let server = PostgresServer::start();
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let canary = folder.path().join("canary");
    // The attack would work: this is what a superuser's role can do.
    let run = |sql: &str| server.client("postgres").batch_execute(&armed(sql, &canary));
    run(ATTACKS[0].0).unwrap();
    assert!(canary.exists());
    fs::remove_file(&canary).unwrap();

    server.create_mlflow("one");
    server.client("one").batch_execute(&mlflow_rows::inserts(1, 3)).unwrap();
    let (text, dumped) = dump(&server.uri("one"));
    assert!(dumped.refused.is_empty(), "{}", dumped.refused);
    let line = text[..text.find(BEFORE).unwrap()].lines().count() as u64 + 1;
    server.create("two");
    let mut writer = open_writer(&server.uri("two")).unwrap();
    let guard = Guard::new(Dialect::Postgresql, &[]);
    let mut tampered = |attack: &str| {
        let text = text.replacen(BEFORE, &format!("{}\n{BEFORE}", armed(attack, &canary)), 1);
        let failure = load(writer.as_mut(), &guard, text.as_bytes(), &[], &dumped.tables).unwrap_err();
        assert!(writer.contents().unwrap().is_empty() && !canary.exists(), "{attack}");
        (refused(&text), failure)
    };
    for (attack, reason) in ATTACKS {
        let (found, failure) = tampered(attack);
        let found = found.unwrap();
        let first = found.statements.first().unwrap_or_else(|| panic!("{attack} is not refused"));
        assert!(first.reason.contains(reason), "{attack}: {}", first.reason);
        let lines = line..=line + attack.lines().count() as u64;
        assert!(lines.contains(&first.line), "{attack}: line {} and not {line}", first.line);
        assert!(matches!(failure, Error::Statements { .. }), "{attack}: {failure}");
    }
    for (attack, reason) in UNREADABLE {
        let (found, failure) = tampered(attack);
        let message = found.unwrap_err().to_string();
        assert!(message.contains(reason), "{attack}: {message}");
        assert!(failure.to_string().contains(reason), "{attack}: {failure}");
    }
    // What an administrator may have put there is no attack, and is not run either.
    let extension = "CREATE EXTENSION IF NOT EXISTS file_fdw WITH SCHEMA public;";
    let text = text.replacen(BEFORE, &format!("{extension}\n{BEFORE}"), 1);
    load(writer.as_mut(), &guard, text.as_bytes(), &[], &dumped.tables).unwrap();
    assert!(refused(&text).unwrap().is_empty());
    let found = server.client("two").query("SELECT 1 FROM pg_extension WHERE extname = 'file_fdw'", &[]).unwrap();
    assert!(found.is_empty(), "the dump has made an extension");
}

fn armed(attack: &str, canary: &Path) -> String {
    attack.replace("CANARY", canary.to_str().unwrap())
}

#[test]
fn the_dumps_of_mlflows_users_and_of_a_schema_of_its_own_name_are_loaded() {
    let server = PostgresServer::start();
    ["backend", "users", "two", "three"].iter().for_each(|name| server.create(name));
    server
        .client("backend")
        .batch_execute("CREATE SCHEMA \"team-a\"; ALTER DATABASE backend SET search_path = \"team-a\"")
        .unwrap();
    let uri =
        |database: &str| format!("postgresql+psycopg2://{OWNER}:{PASSWORD}@127.0.0.1:{}/{database}", server.port());
    let folder = TempDir::new().unwrap();
    let settings = format!(
        "[mlflow]\ndefault_permission = READ\ndatabase_uri = {}\nadmin_username = admin\nadmin_password = {ADMIN_PASSWORD}\n\
         authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
        uri("users")
    );
    fs::write(folder.path().join("auth.ini"), settings).unwrap();
    drop(MlflowServer::start_with(&MlflowOptions {
        backend_store_uri: Some(uri("backend")),
        has_passwords: true,
        environment: vec![("MLFLOW_AUTH_CONFIG_PATH".to_owned(), folder.path().join("auth.ini").display().to_string())],
        ..MlflowOptions::default()
    }));
    for (from, to) in [("backend", "two"), ("users", "three")] {
        let (text, dumped) = dump(&server.uri(from));
        assert!(dumped.refused.is_empty() && dumped.tables.len() > 3, "{from}: {}", dumped.refused);
        let mut writer = open_writer(&server.uri(to)).unwrap();
        let guard = Guard::new(Dialect::Postgresql, &[]);
        load(writer.as_mut(), &guard, text.as_bytes(), &[], &dumped.tables).unwrap();
    }
    assert!(dump(&server.uri("backend")).0.contains("CREATE SCHEMA \"team-a\";"));
}

#[test]
fn a_backup_says_what_a_restore_will_refuse_and_the_user_can_allow_it() {
    let lived = ThreeDays::unpack();
    let (runner, live) = (&lived.runner, lived.place());
    let odd = "CREATE VIEW \"all runs\" AS SELECT * FROM runs";
    let odd_too = "CREATE TRIGGER t AFTER INSERT ON runs BEGIN SELECT 1; SELECT 2; END";
    Connection::open(lived.folder().join("mlflow.db")).unwrap().execute_batch(&format!("{odd}; {odd_too};")).unwrap();
    let backup = live.run(runner, &["backup"]).expect(0);
    let ids = [odd, odd_too].map(|text| mlvault::sql::guard::id_of(text).to_string());
    assert!(backup.stderr.contains("--allow-statement") && backup.stderr.contains("all runs"), "{}", backup.stderr);
    ids.iter().for_each(|id| assert!(backup.stderr.contains(id), "{}", backup.stderr));

    let new = Place::in_folder(&runner.path("new"));
    let restore = |more: &[&str]| new.run(runner, &[&["restore", "--yes"], more].concat());
    let line = line_of(runner, odd);
    for (more, missing) in [(&[][..], 2), (&["--allow-statement", &ids[0]], 1)] {
        let failed = restore(more).expect(1);
        assert!(failed.stderr.contains(&format!("{missing} statement")), "{}", failed.stderr);
        assert!(failed.stderr.contains(&ids[1]) && failed.stderr.contains("--allow-statement ID"), "{}", failed.stderr);
        assert_eq!(failed.stderr.contains(&format!("line {line}:")), missing == 2, "{}", failed.stderr);
        assert!(!runner.path("new").exists(), "something was written");
    }
    restore(&["--allow-statement", "abc"]).expect(2);
    restore(&["--allow-statement", &ids[0], "--allow-statement", &ids[1]]).expect(0);
    let restored = Connection::open(runner.path("new/mlflow.db")).unwrap();
    let runs: i64 = restored.query_row("SELECT count(*) FROM \"all runs\"", [], |row| row.get(0)).unwrap();
    assert!(runs > 5, "{runs}");
}

/// Returns the line of the latest dump that a text is in.
fn line_of(runner: &Runner, text: &str) -> usize {
    let dump = runner.run(["cat", "latest", "database/backend.sql"]).expect(0).stdout;
    let dump = String::from_utf8(dump).unwrap();
    dump.lines().position(|line| line.contains(text)).unwrap() + 1
}
