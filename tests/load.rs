//! The built library, loaded as a user loads it.
#![allow(clippy::unwrap_used)]

mod host;

#[test]
fn version_answers_on_every_connection() {
    for _ in 0..3 {
        let version: String =
            host::memory().query_row("SELECT dualpath_version()", [], |row| row.get(0)).unwrap();
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn wrong_count_of_arguments_is_an_error() {
    let outcome = host::memory().query_row("SELECT dualpath_version(1)", [], |_| Ok(()));
    let message = host::message(outcome);
    assert!(message.contains("wrong number of arguments"), "{message}");
}

/// What a user can type is what docs/sql.md explains.
#[test]
fn the_surface_is_documented() {
    let connection = host::memory();
    let names = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let functions = names(
        "SELECT DISTINCT name FROM pragma_function_list WHERE name LIKE 'embed%' OR name LIKE 'dualpath%' ORDER BY name",
    );
    let modules =
        names("SELECT name FROM pragma_module_list WHERE name LIKE 'dualpath%' ORDER BY name");
    assert_eq!(
        functions,
        [
            "dualpath_check",
            "dualpath_debug",
            "dualpath_device",
            "dualpath_progress",
            "dualpath_runtime",
            "dualpath_status",
            "dualpath_sync",
            "dualpath_threads",
            "dualpath_triggers",
            "dualpath_version",
            "embed_add",
            "embed_distance",
            "embed_file",
            "embed_from_json",
            "embed_image",
            "embed_text",
            "embed_to_json",
        ]
    );
    assert_eq!(modules, ["dualpath", "dualpath_models"]);
    let reference = include_str!("../docs/sql.md");
    for name in functions
        .iter()
        .map(|it| format!("### `{it}("))
        .chain(modules.iter().map(|it| format!("`{it}`")))
    {
        assert!(reference.contains(&name), "docs/sql.md does not explain {name}");
    }
}
