use super::*;
use std::{future::pending, net::IpAddr};

fn texts(addresses: &[ReplicaAddress]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn targets(texts: &[&str]) -> Vec<AdminTarget> {
    let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
    parse(&texts).map_err(|error| error.report.to_string()).expect("targets")
}

/// Returns the addresses of these targets if every name has these.
async fn found(of: &[&str], ips: &[&str]) -> Result<Vec<ReplicaAddress>, String> {
    let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().expect("an address")).collect();
    let look_up = async |_: &str, port| Ok(ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect());
    addresses(targets(of), look_up).await.map_err(|error| error.report.to_string())
}

#[tokio::test]
async fn each_address_of_a_name_is_a_replica() {
    let ips = ["10.0.0.8", "fd00::7", "10.0.0.7", "10.0.0.8"];
    let all = found(&["10.0.0.1:9090", "dns://admin:9091", "dns+https://admin.example:9092"], &ips).await.unwrap();
    assert_eq!(
        texts(&all),
        [
            "http://10.0.0.1:9090",
            "http://10.0.0.7:9091",
            "http://10.0.0.8:9091",
            "http://[fd00::7]:9091",
            "https://10.0.0.7:9092",
            "https://10.0.0.8:9092",
            "https://[fd00::7]:9092",
        ]
    );
    assert_eq!(all[0].name(), None);
    assert_eq!(all[6].name(), Some(&ServerName::try_from("admin.example").unwrap()), "its certificate is for the name");
}

#[tokio::test]
async fn the_host_and_the_port_of_a_name_are_looked_up() {
    for (target, expected) in [("dns://admin.example:9090", "admin.example"), ("dns://[::1]:9090", "::1")] {
        let looked_up = async |host: &str, port| {
            assert_eq!((host, port), (expected, 9090));
            Ok(vec!["127.0.0.1:9090".parse().unwrap()])
        };
        assert!(addresses(targets(&[target]), looked_up).await.is_ok());
    }
}

#[tokio::test]
async fn a_name_without_an_address_or_with_too_many_is_an_error() {
    let none = found(&["dns://admin:9090"], &[]).await.unwrap_err();
    assert!(none.contains("the name admin") && none.contains("it has no address") && none.contains("69"), "{none}");
    let ips: Vec<String> = (0..=MAX_ADDRESSES).map(|number| format!("fd00::{number:x}")).collect();
    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    let many = found(&["dns://admin:9090"], &ips).await.unwrap_err();
    assert!(many.contains("it has 4097 addresses"), "{many}");
    assert_eq!(found(&["dns://admin:9090"], &ips[1..]).await.unwrap().len(), MAX_ADDRESSES);
}

#[tokio::test]
async fn every_name_that_does_not_resolve_is_named() {
    let look_up = async |_: &str, _| Err(io::Error::other("no such host"));
    let found = addresses(targets(&["dns://one:9090", "dns://two:9090"]), look_up).await;
    let error = found.map_err(|error| error.report).expect_err("no address");
    let text = error.to_string();
    assert!(text.contains("the name one") && text.contains("the name two") && text.contains("no such host"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_does_not_answer_is_given_up() {
    let error = addresses(targets(&["dns://admin:9090"]), async |_: &str, _| pending().await).await.err();
    assert!(error.expect("no address").report.to_string().contains("cannot be resolved"));
}

#[test]
fn a_mistake_in_a_name_is_a_mistake_of_the_command_line() {
    for text in ["dns://", "dns://admin", "dns://me:sentinel@admin:9090", "dns://admin:9090/x", "dns+http://admin:9090"]
    {
        let error = parse(&[text.to_owned()]).err().expect(text);
        assert_eq!(error.report.exit(), Exit::Usage, "{text}");
        assert!(!error.report.to_string().contains("sentinel"), "{text}");
    }
}
