//! IAM policies: the actions that this client needs, for exactly these secrets and databases.

use super::{in_region, sdk};
use crate::{
    config::settings::AwsConfig,
    exit::{Exit, Fault},
    secrets::{
        id::SecretId,
        rights::{Policy, Rights, TokenLogIn},
    },
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The partitions, with the start of their Regions' names and the end of their services' names (botocore's
/// `partitions.json`).
const PARTITIONS: [(&str, &str, &str); 7] = [
    ("cn-", "aws-cn", "amazonaws.com.cn"),
    ("eu-isoe-", "aws-iso-e", "cloud.adc-e.uk"),
    ("eusc-", "aws-eusc", "amazonaws.eu"),
    ("us-gov-", "aws-us-gov", "amazonaws.com"),
    ("us-iso-", "aws-iso", "c2s.ic.gov"),
    ("us-isob-", "aws-iso-b", "sc2s.sgov.gov"),
    ("us-isof-", "aws-iso-f", "csp.hci.ic.gov"),
];

/// The end of a secret's ARN, after its name: AWS adds a dash and six characters of its own. With `*` in their place, the
/// policy would allow each secret whose name begins with this name and a dash.
const END_OF_ARN: &str = "-??????";

/// The largest managed policy, in characters without blanks (*IAM and STS quotas*).
const LARGEST: usize = 6144;

/// The facts about the account that the configuration does not have.
#[derive(Default)]
pub(crate) struct AwsAccount {
    /// The id of the account. `None` if the ARN of a secret names it.
    pub(crate) id: Option<String>,
    /// The keys of KMS that the secrets are encrypted with, if these are not AWS's own.
    pub(crate) kms_keys: Vec<KmsKey>,
    /// The resource ids of databases, by the keys of their sections.
    pub(crate) resource_ids: BTreeMap<String, String>,
}

impl AwsAccount {
    pub(crate) fn is_empty(&self) -> bool {
        self.id.is_none() && self.kms_keys.is_empty() && self.resource_ids.is_empty()
    }
}

/// The ARN of a key of KMS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KmsKey(String);

impl KmsKey {
    /// Parses `arn:<partition>:kms:<Region>:<account>:key/<id>`. Returns `None` for any other text: IAM compares an action
    /// with the ARN of the key, and never with an alias.
    pub(crate) fn parse(arn: &str) -> Option<Self> {
        let parts: Vec<_> = arn.split(':').collect();
        let ["arn", partition, "kms", region, account, key] = parts[..] else { return None };
        let is_word =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let is_key = key.strip_prefix("key/").is_some_and(is_word);
        let is_arn = is_word(partition) && is_word(region) && is_account(account) && is_key;
        if is_arn { Some(Self(arn.to_owned())) } else { None }
    }

    fn region(&self) -> &str {
        self.0.split(':').nth(3).expect("an ARN has a Region")
    }
}

/// Returns `true` for the id of an account.
pub(crate) fn is_account(id: &str) -> bool {
    id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_digit())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    version: &'static str,
    statement: Vec<Statement>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    sid: &'static str,
    effect: &'static str,
    action: &'static str,
    resource: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    condition: BTreeMap<&'static str, BTreeMap<&'static str, BTreeSet<String>>>,
}

impl Statement {
    fn allow(sid: &'static str, action: &'static str, resource: BTreeSet<String>) -> Self {
        Self { sid, effect: "Allow", action, resource, condition: BTreeMap::new() }
    }

    fn when(mut self, operator: &'static str, key: &'static str, values: BTreeSet<String>) -> Self {
        self.condition.insert(operator, BTreeMap::from([(key, values)]));
        self
    }
}

/// Returns the policy for these rights. Its statements have a fixed order, and their resources are sorted.
///
/// # Errors
/// A fault for each fact that the ARNs need and that nobody has given.
pub(crate) fn policy(rights: &Rights<'_>, aws: &AwsConfig, account: &AwsAccount) -> Result<Policy, Vec<Fault>> {
    let mut writer = PolicyWriter::new(rights, aws, account);
    let values = writer.secrets(&rights.values, writer.regions.len());
    // Only the first Region is asked for versions.
    let versions = writer.secrets(&rights.versions, 1);
    let log_ins: BTreeSet<_> = rights.token_log_ins.iter().map(|log_in| writer.database_user(log_in)).collect();
    let keys = writer.kms_keys(rights);
    if !writer.faults.is_empty() {
        return Err(writer.faults);
    }
    let mut statement = Vec::new();
    if !values.is_empty() {
        statement.push(Statement::allow("ReadSecrets", "secretsmanager:GetSecretValue", values.clone()));
    }
    if !versions.is_empty() {
        statement.push(Statement::allow("DescribeSecrets", "secretsmanager:DescribeSecret", versions));
    }
    if !keys.is_empty() {
        let services = account.kms_keys.iter().map(|key| service_name(key.region())).collect();
        let decrypt = Statement::allow("DecryptSecrets", "kms:Decrypt", keys)
            .when("StringEquals", "kms:ViaService", services)
            .when("StringLike", "kms:EncryptionContext:SecretARN", values);
        statement.push(decrypt);
    }
    if !log_ins.is_empty() {
        statement.push(Statement::allow("LogInToDatabases", "rds-db:connect", log_ins));
    }
    let mut remarks = writer.remarks;
    if statement.is_empty() {
        return Ok(Policy { document: String::new(), remarks });
    }
    let document = Document { version: "2012-10-17", statement };
    let document = serde_json::to_string_pretty(&document).expect("a policy is JSON");
    let size = document.chars().filter(|c| !c.is_whitespace()).count();
    if size > LARGEST {
        remarks.push(format!(
            "the policy has {size} characters, and a managed policy has {LARGEST} at most: put it into the role itself, \
             which may have 10,240"
        ));
    }
    Ok(Policy { document, remarks })
}

/// Makes the ARNs of a policy, and collects what is missing for them.
struct PolicyWriter<'a> {
    /// The Regions in which secrets are read.
    regions: Vec<String>,
    /// The account of what is named without one.
    id: Option<String>,
    account: &'a AwsAccount,
    faults: Vec<Fault>,
    remarks: Vec<String>,
}

impl<'a> PolicyWriter<'a> {
    fn new(rights: &Rights<'_>, aws: &AwsConfig, account: &'a AwsAccount) -> Self {
        let mut regions = aws.regions.clone();
        if regions.is_empty() {
            regions.extend(sdk::region_of_environment());
        }
        let of_arns: BTreeSet<_> = rights.values.union(&rights.versions).filter_map(SecretId::account).collect();
        let only_one = if of_arns.len() == 1 { of_arns.first().map(|id| (*id).to_owned()) } else { None };
        let id = account.id.clone().or(only_one);
        Self { regions, id, account, faults: Vec::new(), remarks: Vec::new() }
    }

    /// Returns the ARN of each secret, in the first Regions.
    fn secrets(&mut self, ids: &BTreeSet<SecretId>, first: usize) -> BTreeSet<String> {
        let mut regions = self.regions.clone();
        regions.truncate(first);
        if regions.is_empty() && ids.iter().any(|id| id.region().is_none()) {
            regions.push(self.region());
        }
        let has_replicas = self.regions.len() > 1;
        let mut arns = BTreeSet::new();
        for id in ids {
            if id.region().is_none() {
                let account = self.account_id();
                let name = format!("{id}{END_OF_ARN}");
                arns.extend(regions.iter().map(|region| arn("secretsmanager", region, &account, "secret", &name)));
            } else if has_replicas {
                arns.extend(regions.iter().map(|region| with_end(&in_region(id.as_str(), region))));
            } else {
                arns.insert(with_end(id.as_str()));
            }
        }
        arns
    }

    /// Returns the ARN of a user at a database.
    fn database_user(&mut self, log_in: &TokenLogIn<'_>) -> String {
        let TokenLogIn { section, region, user } = log_in;
        let region = region.map_or_else(|| self.region(), str::to_owned);
        let account = self.account_id();
        let resource = self.account.resource_ids.get(section).cloned().unwrap_or_else(|| {
            self.remarks.push(format!(
                "[{section}] {user} may log in at every database of the account in {region} that has such a user: name the \
                 one with --database-resource {section}=db-…, or =cluster-… of Aurora (aws rds describe-db-instances, \
                 DbiResourceId; describe-db-clusters, DbClusterResourceId)"
            ));
            "*".into()
        });
        arn("rds-db", &region, &account, "dbuser", &format!("{resource}/{}", literal(user)))
    }

    /// Returns the ARNs of the keys that a command decrypts secrets with.
    fn kms_keys(&mut self, rights: &Rights<'_>) -> BTreeSet<String> {
        if rights.values.is_empty() {
            if !self.account.kms_keys.is_empty() {
                self.remarks.push("no value of a secret is read, so --kms-key has no effect".into());
            }
            return BTreeSet::new();
        }
        self.account.kms_keys.iter().map(|key| key.0.clone()).collect()
    }

    /// Returns the first Region, and a text in its place if there is none.
    fn region(&mut self) -> String {
        if let Some(first) = self.regions.first() {
            return first.clone();
        }
        let problem = "no AWS Region is configured, and this command asks nobody for one";
        self.add(sdk::no_region(Exit::Config, problem));
        String::new()
    }

    /// Returns the account, and a text in its place if there is none.
    fn account_id(&mut self) -> String {
        if let Some(id) = &self.id {
            return id.clone();
        }
        self.add(Fault::new(
            Exit::Usage,
            "option --account",
            "the ARNs of a policy have the id of an account, and the ids of the secrets name none, or several",
            "give it, as `aws sts get-caller-identity --query Account --output text` prints it in that account",
        ));
        String::new()
    }

    fn add(&mut self, fault: Fault) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

fn arn(service: &str, region: &str, account: &str, kind: &str, name: &str) -> String {
    let (partition, _) = partition(region);
    format!("arn:{partition}:{service}:{region}:{account}:{kind}:{name}")
}

/// Returns the ARN of a secret, with a pattern in place of its end if that is missing. AWS accepts such an ARN in a call,
/// but no policy matches it.
fn with_end(arn: &str) -> String {
    let end = arn.rsplit_once('-').map(|(_, end)| end);
    let is_whole = end.is_some_and(|end| end.len() == 6 && end.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if is_whole { arn.to_owned() } else { format!("{arn}{END_OF_ARN}") }
}

/// Returns the name under which Secrets Manager calls KMS.
fn service_name(region: &str) -> String {
    let (_, suffix) = partition(region);
    format!("secretsmanager.{region}.{suffix}")
}

/// Returns the partition of a Region, and the end of its services' names.
fn partition(region: &str) -> (&'static str, &'static str) {
    let found = PARTITIONS.into_iter().find(|(start, ..)| region.starts_with(start));
    found.map_or(("aws", "amazonaws.com"), |(_, partition, suffix)| (partition, suffix))
}

/// Returns a text so that no character of it is a wildcard or a variable of a policy.
fn literal(text: &str) -> String {
    let mut literal = String::new();
    for c in text.chars() {
        match c {
            '*' | '?' | '$' => literal.extend(['$', '{', c, '}']),
            c => literal.push(c),
        }
    }
    literal
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ARN: &str = "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:pay/signing-AbCdEf";
    const KEY: &str = "arn:aws-cn:kms:cn-north-1:123456789012:key/mrk-0123";

    fn ids(ids: &[&str]) -> BTreeSet<SecretId> {
        ids.iter().map(|id| SecretId::parse(id).unwrap()).collect()
    }

    fn reads(values: &[&str]) -> Rights<'static> {
        Rights { values: ids(values), ..Rights::default() }
    }

    fn in_regions(regions: &[&str]) -> AwsConfig {
        AwsConfig { regions: regions.iter().map(|&region| region.into()).collect(), ..AwsConfig::default() }
    }

    #[expect(clippy::disallowed_methods, reason = "nothing is secret here")]
    fn statements(policy: &Policy) -> Value {
        let mut document: Value = serde_json::from_str(&policy.document).unwrap();
        assert_eq!(document["Version"], "2012-10-17");
        document["Statement"].take()
    }

    #[test]
    fn names_get_a_pattern_arns_stay_and_keys_decrypt_nothing_else() {
        let account = AwsAccount { kms_keys: vec![KmsKey::parse(KEY).unwrap()], ..AwsAccount::default() };
        let aws = in_regions(&["cn-north-1", "cn-northwest-1"]);
        let printed = policy(&reads(&["pay/database", ARN]), &aws, &account).unwrap();
        let start = |region: &str| format!("arn:aws-cn:secretsmanager:{region}:123456789012:secret:pay");
        let arns = ["cn-north-1", "cn-northwest-1"]
            .map(|region| [start(region) + "/database-??????", start(region) + "/signing-AbCdEf"])
            .concat();
        let decrypt = json!({
            "Sid": "DecryptSecrets",
            "Effect": "Allow",
            "Action": "kms:Decrypt",
            "Resource": [KEY],
            "Condition": {
                "StringEquals": { "kms:ViaService": ["secretsmanager.cn-north-1.amazonaws.com.cn"] },
                "StringLike": { "kms:EncryptionContext:SecretARN": arns },
            },
        });
        let read = "secretsmanager:GetSecretValue";
        let read = json!({ "Sid": "ReadSecrets", "Effect": "Allow", "Action": read, "Resource": arns });
        assert_eq!(statements(&printed), json!([read, decrypt]));
        assert!(printed.remarks.is_empty());

        let audit = Rights { versions: ids(&["pay/database", ARN]), ..Rights::default() };
        let printed = policy(&audit, &aws, &account).unwrap();
        let describe = "secretsmanager:DescribeSecret";
        let describe =
            json!({ "Sid": "DescribeSecrets", "Effect": "Allow", "Action": describe, "Resource": arns[..2] });
        assert_eq!(statements(&printed), json!([describe]), "only the first Region is asked");
        assert!(printed.remarks[0].contains("--kms-key has no effect"));

        let reload = Rights { values: ids(&[ARN]), ..audit };
        let printed = policy(&reload, &aws, &account).unwrap();
        let printed = statements(&printed);
        let [read, described, decrypt] = &printed.as_array().unwrap()[..] else { panic!("three") };
        let signing = json!([arns[1], arns[3]]);
        assert_eq!((&read["Resource"], described), (&signing, &describe), "one value is read");
        assert_eq!(decrypt["Condition"]["StringLike"]["kms:EncryptionContext:SecretARN"], signing);
    }

    #[test]
    fn an_arn_without_its_end_gets_the_pattern() {
        let whole = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:pay/database-AbCdEf";
        assert_eq!(with_end(whole), whole);
        for part in ["pay/database", "pay/api-keys", "pay/database-AbCdE"] {
            let arn = format!("arn:aws:secretsmanager:eu-west-1:123456789012:secret:{part}");
            assert_eq!(with_end(&arn), format!("{arn}-??????"));
        }
    }

    #[test]
    fn a_log_in_with_a_token_is_for_one_user_at_one_database() {
        let log_in = |section: &str, region, user| TokenLogIn { section: section.into(), region, user };
        let token_log_ins =
            vec![log_in("database", None, "app_iam"), log_in("databases.reports", Some("us-gov-west-1"), "a*$")];
        let rights = Rights { token_log_ins, ..Rights::default() };
        let resource_ids = BTreeMap::from([("database".into(), "db-ABC".into())]);
        let account = AwsAccount { id: Some("123456789012".into()), resource_ids, ..AwsAccount::default() };
        let printed = policy(&rights, &in_regions(&["eu-west-1"]), &account).unwrap();
        let users = [
            "arn:aws-us-gov:rds-db:us-gov-west-1:123456789012:dbuser:*/a${*}${$}",
            "arn:aws:rds-db:eu-west-1:123456789012:dbuser:db-ABC/app_iam",
        ];
        assert_eq!(statements(&printed)[0]["Resource"], json!(users));
        let [remark] = &printed.remarks[..] else { panic!("one remark: {:?}", printed.remarks) };
        assert!(remark.contains("databases.reports=db-…"), "{remark}");
    }

    #[test]
    fn an_account_that_nothing_names_is_one_fault_and_no_right_is_no_document() {
        let aws = in_regions(&["eu-west-1"]);
        let asks = reads(&["pay/database", "pay/signing"]);
        let faults = policy(&asks, &aws, &AwsAccount::default()).err().unwrap();
        let [fault] = &faults[..] else { panic!("one fault: {faults:?}") };
        assert!(fault.exit == Exit::Usage && fault.remedy.contains("get-caller-identity"));
        let nothing = policy(&Rights::default(), &aws, &AwsAccount::default()).unwrap();
        assert_eq!(nothing.document, "");
    }

    #[test]
    fn a_key_is_named_by_its_arn_alone() {
        assert!(KmsKey::parse(KEY).is_some());
        for other in ["alias/pay", "mrk-0123", "arn:aws:kms:eu-west-1:123456789012:alias/pay", "arn:aws:kms:*:1:key/*"]
        {
            assert_eq!(KmsKey::parse(other), None, "{other}");
        }
    }
}
