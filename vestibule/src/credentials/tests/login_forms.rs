//! The forms in which tools and people write a login.

use super::*;

/// Returns user, password, host, port and name of the database, with `-` for one that is absent.
pub(super) fn parts(text: &str) -> Result<String, String> {
    let login = read::<Login>(text).map_err(|error| error.to_string())?;
    let or_dash = |part: Option<&str>| part.unwrap_or("-").to_owned();
    let port = login.port.map_or("-".to_owned(), |port| port.to_string());
    let (user, name) = (or_dash(login.username.as_deref()), or_dash(login.dbname.as_deref()));
    Ok(format!(
        "{user} {} {} {port} {name}",
        login.password.expect("it was read").expose_secret(),
        or_dash(login.host.as_deref())
    ))
}

/// A form, the tool that writes it, and what it is read as, or what was expected.
type Row = (&'static str, &'static str, Result<&'static str, &'static str>);

const FORMS: [Row; 88] = [
    // AWS.
    (
        "console: credentials for an RDS database",
        r#"{"username":"app","password":"p","engine":"postgres","host":"db.x.rds.amazonaws.com","port":5432,"dbInstanceIdentifier":"db"}"#,
        Ok("app p db.x.rds.amazonaws.com 5432 -"),
    ),
    (
        "console: another type of secret, in rows: all are texts",
        r#"{"username":"app","password":"p","host":"db.x","port":"5432","dbname":"n"}"#,
        Ok("app p db.x 5432 n"),
    ),
    ("RDS: the managed secret of the master user", r#"{"username":"postgres","password":"p"}"#, Ok("postgres p - - -")),
    (
        "CloudFormation: SecretTargetAttachment",
        r#"{"password":"p","dbname":"n","engine":"postgres","port":5432,"dbInstanceIdentifier":"db","host":"db.x","username":"app"}"#,
        Ok("app p db.x 5432 n"),
    ),
    (
        "rotation function: one user, as Python's json.dumps writes it",
        r#"{"engine": "postgres", "host": "db.x", "username": "app", "password": "p", "dbname": "n", "port": 5432}"#,
        Ok("app p db.x 5432 n"),
    ),
    (
        "rotation function: alternating users",
        r#"{"engine": "postgres", "host": "db.x", "username": "app_clone", "password": "p", "masterarn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:m-AbCdEf"}"#,
        Ok("app_clone p db.x - -"),
    ),
    (
        "Aurora",
        r#"{"dbClusterIdentifier":"c","password":"p","engine":"aurora-postgresql","port":5432,"host":"c.cluster-x.rds.amazonaws.com","username":"app"}"#,
        Ok("app p c.cluster-x.rds.amazonaws.com 5432 -"),
    ),
    (
        "RDS Proxy",
        r#"{"username":"app","password":"p","host":"p.proxy-x.eu-west-1.rds.amazonaws.com"}"#,
        Ok("app p p.proxy-x.eu-west-1.rds.amazonaws.com - -"),
    ),
    (
        "Redshift",
        r#"{"engine":"redshift","host":"c.x.redshift.amazonaws.com","username":"app","password":"p","dbname":"n","port":5439}"#,
        Ok("app p c.x.redshift.amazonaws.com 5439 n"),
    ),
    (
        "DocumentDB",
        r#"{"engine":"mongo","host":"d.x","username":"app","password":"p","ssl":true,"port":27017}"#,
        Ok("app p d.x 27017 -"),
    ),
    (
        "CLI: file:// with JSON and a newline at its end",
        "{\"username\":\"app\",\"password\":\"p\"}\n",
        Ok("app p - - -"),
    ),
    ("CLI: file:// from Windows", "{\r\n\t\"username\": \"app\",\r\n\t\"password\": \"p\"\r\n}\r\n", Ok("app p - - -")),
    ("CLI: file:// with a bare password", "p\n", Err(Login::NEWLINE)),
    ("CLI: file:// with a bare password from Windows", "p\r\n", Err(Login::NEWLINE)),
    ("CLI: the shell kept the quotes", r#"'{"username":"app","password":"p"}'"#, Err(Login::EXPECTED)),
    ("CLI: JSON encoded twice", r#""{\"username\":\"app\",\"password\":\"p\"}""#, Err(Login::EXPECTED)),
    ("CLI: base64, as SecretBinary was written", "eyJ1c2VybmFtZSI6ImFwcCIsInBhc3N3b3JkIjoicCJ9", Err(Login::EXPECTED)),
    ("get-random-password", r"R{4>x'^]Oa`\", Ok(r"- R{4>x'^]Oa`\ - - -")),
    // Terraform.
    ("random_password", "!@#$%&*()-_=+[]{}<>:?", Ok("- !@#$%&*()-_=+[]{}<>:? - - -")),
    ("random_password that begins with [", "[b", Ok("- [b - - -")),
    ("random_password that begins with {", "{b", Err(Login::EXPECTED)),
    (
        "jsonencode, which escapes < > &",
        r#"{"password":"a\u003cb\u003ec\u0026d","username":"app"}"#,
        Ok("app a<b>c&d - - -"),
    ),
    (
        "aws_db_instance: endpoint, which has the port",
        r#"{"host":"db.x:5432","password":"p","port":5432,"username":"app"}"#,
        Ok("app p db.x 5432 -"),
    ),
    (
        "aws_db_instance: endpoint alone",
        r#"{"host":"db.x:6432","password":"p","username":"app"}"#,
        Ok("app p db.x 6432 -"),
    ),
    (
        "aws_db_instance: address, and the port in a map of strings",
        r#"{"host":"db.x","password":"p","port":"5432","username":"app"}"#,
        Ok("app p db.x 5432 -"),
    ),
    ("file(), with its newline", r#"{"host":"db.x\n","password":"p","username":"app"}"#, Ok("app p db.x - -")),
    ("an output that is null", r#"{"host":null,"password":"p","port":null,"username":"app"}"#, Ok("app p - - -")),
    ("a URL in host", r#"{"host":"postgres://app:p@db.x/n","password":"p","username":"app"}"#, Err(Login::HOST)),
    ("a URL as the whole value", "postgres://app:p@db.x/n", Err(Login::NO_URL)),
    ("a URL of JDBC", "jdbc:postgresql://db.x/n?user=app&password=p", Err(Login::NO_URL)),
    ("SQLAlchemy", "postgresql+asyncpg://app:p@db.x/n", Err(Login::NO_URL)),
    ("a URL in capitals", " POSTGRES://app:p@db.x/n", Err(Login::NO_URL)),
    ("the JDBC driver of AWS", "jdbc:aws-wrapper:postgresql://db.x/n?user=app&password=p", Err(Login::NO_URL)),
    ("libpq: keywords", "host=db.x user=app password=p", Err(Login::NO_URL)),
    (".NET", "Host=db.x;Username=app;Password=p", Err(Login::NO_URL)),
    ("a URL of which the shell kept the quotes", "'postgres://app:p@db.x/n'", Err(Login::NO_URL)),
    ("a line of an .env file", "DATABASE_URL=postgres://app:p@db.x/n", Err(Login::NO_URL)),
    ("Django: PostGIS", "postgis://app:p@db.x/n", Err(Login::NO_URL)),
    ("PHP: a URL", "pgsql://app:p@db.x/n", Err(Login::NO_URL)),
    ("PHP: PDO", "pgsql:host=db.x;dbname=n;user=app;password=p", Err(Login::NO_URL)),
    ("random_password that has :// and =", "a=b://c;d", Ok("- a=b://c;d - - -")),
    // Operators for Kubernetes, pushed by External Secrets.
    ("Zalando's operator, Vault's database engine", r#"{"password":"p","username":"app"}"#, Ok("app p - - -")),
    (
        "CloudNativePG",
        r#"{"dbname":"n","host":"c-rw","jdbc-uri":"jdbc:postgresql://c-rw:5432/n?password=p","password":"p","pgpass":"c-rw:5432:n:app:p\n","port":"5432","uri":"postgresql://app:p@c-rw:5432/n","user":"app","username":"app"}"#,
        Ok("app p c-rw 5432 n"),
    ),
    (
        "CloudNativePG: the superuser",
        r#"{"dbname":"*","host":"c-rw","password":"p","port":"5432","user":"postgres","username":"postgres"}"#,
        Ok("postgres p c-rw 5432 -"),
    ),
    (
        "Crunchy's operator",
        r#"{"dbname":"n","host":"c-primary.ns.svc","password":"p","port":"5432","uri":"postgresql://app:p@c-primary.ns.svc:5432/n","user":"app","verifier":"SCRAM-SHA-256$4096:a=$b=:c="}"#,
        Ok("app p c-primary.ns.svc 5432 n"),
    ),
    ("Crossplane", r#"{"endpoint":"db.x","password":"p","port":"5432","username":"app"}"#, Ok("app p - 5432 -")),
    ("two fields of one meaning differ", r#"{"password":"p","user":"a","username":"b"}"#, Err(Login::USERNAME)),
    (
        "two fields of one meaning differ",
        r#"{"password":"p","username":"a","dbname":"a","database":"b"}"#,
        Err(Login::DBNAME),
    ),
    // Hosts.
    ("an address", r#"{"username":"app","password":"p","host":"10.0.0.7"}"#, Ok("app p 10.0.0.7 - -")),
    ("an address with a port", r#"{"username":"app","password":"p","host":"[::1]:5433"}"#, Ok("app p ::1 5433 -")),
    ("an address of IPv6", r#"{"username":"app","password":"p","host":"2001:db8::1"}"#, Ok("app p 2001:db8::1 - -")),
    (
        "the folder of a socket",
        r#"{"username":"app","password":"p","host":"/run/postgresql"}"#,
        Ok("app p /run/postgresql - -"),
    ),
    ("libpq: several hosts", r#"{"username":"app","password":"p","host":"a,b"}"#, Err(Login::HOST)),
    ("a name from the root", r#"{"username":"app","password":"p","host":"db.x."}"#, Ok("app p db.x. - -")),
    ("an empty label", r#"{"username":"app","password":"p","host":"db..x"}"#, Err(Login::HOST)),
    (
        "an octal address, which is 10.0.0.8",
        r#"{"username":"app","password":"p","host":"10.0.0.010"}"#,
        Err(Login::HOST),
    ),
    ("an address as one number", r#"{"username":"app","password":"p","host":"2130706433"}"#, Err(Login::HOST)),
    ("an address in hexadecimal", r#"{"username":"app","password":"p","host":"0x7F.1"}"#, Err(Login::HOST)),
    ("an address with a blank in it", r#"{"username":"app","password":"p","host":"10.0.0. 7"}"#, Err(Login::HOST)),
    ("a name in Unicode", r#"{"username":"app","password":"p","host":"dä.x"}"#, Err(Login::HOST)),
    ("the ports differ", r#"{"username":"app","password":"p","host":"db:5432","port":6432}"#, Err(Login::PORT)),
    // People, spreadsheets and editors.
    ("a spreadsheet's number", r#"{"user":"app","password":"p","database":"n","port":5432.0}"#, Ok("app p - 5432 n")),
    ("fields left empty", r#"{"username":"app","password":"p","host":"","port":"","dbname":""}"#, Ok("app p - - -")),
    ("PowerShell: a byte order mark", "\u{feff}{\"username\":\"app\",\"password\":\"p\"}", Ok("app p - - -")),
    ("two byte order marks", "\u{feff}\u{feff}{\"username\":\"app\",\"password\":\"p\"}", Ok("app p - - -")),
    ("a byte order mark after a newline", "\n\u{feff}{\"username\":\"app\",\"password\":\"p\"}", Err(Login::EXPECTED)),
    ("a byte order mark, and a bare password", "\u{feff}p", Ok("- p - - -")),
    ("UTF-16, read as UTF-8", "\u{fffd}\u{fffd}{\0\"\0u\0", Err(Login::EXPECTED)),
    ("a zero width space before JSON", "\u{200b}{\"username\":\"app\",\"password\":\"p\"}", Err(Login::EXPECTED)),
    ("a comma too many", r#"{"username":"app","password":"p",}"#, Err(Login::EXPECTED)),
    ("Python's repr", "{'username': 'app', 'password': 'p'}", Err(Login::EXPECTED)),
    ("a name with a blank", r#"{"username":"my app","password":"p"}"#, Ok("my app p - - -")),
    ("a name from a web page", r#"{"username":"app\u200b","password":"p"}"#, Err(Login::USERNAME)),
    (
        "a name that turns its line around",
        r#"{"username":"app","password":"p","dbname":"\u202en"}"#,
        Err(Login::DBNAME),
    ),
    ("a name with a blank that does not break", r#"{"username":"app\u00a0","password":"p"}"#, Err(Login::USERNAME)),
    ("a name with a line separator", r#"{"username":"a\u2028b","password":"p"}"#, Err(Login::USERNAME)),
    ("a name with a comma", r#"{"username":"my,app","password":"p"}"#, Ok("my,app p - - -")),
    ("a name that SASLprep does not know", r#"{"username":"app😀","password":"p"}"#, Ok("app😀 p - - -")),
    ("a password that SASLprep does not know", r#"{"username":"app","password":"p😀"}"#, Ok("app p😀 - - -")),
    ("a password with a control character", r#"{"username":"app","password":"p\u0007"}"#, Ok("app p\u{7} - - -")),
    ("in JSON, a newline belongs to it", r#"{"username":"app","password":"p\n"}"#, Ok("app p\n - - -")),
    ("a password that nobody can see", r#"{"username":"app","password":"\ufeff"}"#, Err(Login::NO_PASSWORD)),
    ("a password with NUL", r#"{"username":"app","password":"p\u0000"}"#, Err(Login::NO_PASSWORD)),
    ("a number as the password", r#"{"username":"app","password":123456}"#, Err(Login::PASSWORD)),
    ("a bare number", "123456", Ok("- 123456 - - -")),
    ("one bare quote", "\"", Ok("- \" - - -")),
    ("a bare password in quotes", "\"p\"", Err(Login::EXPECTED)),
    ("blanks belong to a bare password", " p ", Ok("-  p  - - -")),
];

#[test]
fn a_login_is_read_in_every_form_or_refused_in_words() {
    for (from, text, expected) in FORMS {
        let expected = expected.map(ToOwned::to_owned).map_err(|words| format!("expected {words}"));
        assert_eq!(parts(text), expected, "{from}: {text}");
    }
}
