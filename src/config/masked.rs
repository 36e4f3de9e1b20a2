//! Values of settings as they may be shown.
//!
//! What must stay true: nothing that is returned here opens anything. Passwords and parameters of URIs, paths of addresses that
//! whoever knows them may use, and what follows the first word of a command line are left out, rather too much than too little.

/// Stands for what is not shown.
const HIDDEN: &str = "…";

/// Returns the value of a key as it may be shown.
pub fn value(key: &str, value: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    match name {
        "before" | "after" | "failed" => command(value),
        "passphrase" => HIDDEN.to_owned(),
        "url" => host(value),
        _ if name.ends_with("-command") => command(value),
        _ => uri(value),
    }
}

/// Returns the first word of a command line.
fn command(line: &str) -> String {
    match line.trim().split_once(char::is_whitespace) {
        Some((first, _)) => format!("{} {HIDDEN}", uri(first)),
        None => uri(line.trim()),
    }
}

/// Returns scheme and host of a URL whose path is a secret, as those of webhooks are.
pub fn host(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return HIDDEN.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{scheme}://{}/{HIDDEN}", authority.rsplit('@').next().unwrap_or_default())
}

/// Returns a text whose URIs have neither passwords nor parameters.
fn uri(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    // SQLAlchemy's reading: a password may hold anything, also `/` and `?`.
    let rest = match rest.rsplit_once('@') {
        Some((user, rest)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:{HIDDEN}@{rest}"),
            None => format!("{user}@{rest}"),
        },
        None => rest.to_owned(),
    };
    let rest = rest.split_once('?').map_or(rest.clone(), |(path, _)| format!("{path}?{HIDDEN}"));
    format!("{scheme}://{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_something_is_not_shown() {
        for (key, text, shown) in [
            ("repository", "s3://bucket/p", "s3://bucket/p"),
            ("deployment.p.backend-store-uri", "postgresql://u:hunter2@h/d", "postgresql://u:…@h/d"),
            ("deployment.p.backend-store-uri", "postgresql://u:hun/t?er@2@h/d", "postgresql://u:…@h/d"),
            ("deployment.p.backend-store-uri", "postgresql://u@h/d?password=hunter2", "postgresql://u@h/d?…"),
            ("passphrase-command", "curl -H hunter2 https://h", "curl …"),
            ("hooks.before", "./freeze", "./freeze"),
            ("deployment.p.hooks.failed", "page hunter2", "page …"),
            ("notify.ops.url", "https://hooks.example.org/services/hunter2", "https://hooks.example.org/…"),
            ("notify.ops.url", "https://a:hunter2@hooks.example.org?x=hunter2", "https://hooks.example.org/…"),
            ("notify.ops.url", "hunter2", "…"),
        ] {
            assert_eq!(value(key, text), shown, "{key} = {text}");
        }
    }
}
