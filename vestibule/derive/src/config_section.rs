//! `#[derive(ConfigSection)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, ExprLit, Field, Fields, Lit, LitStr, Meta, Token, ext::IdentExt,
    punctuated::Punctuated, spanned::Spanned,
};

/// The attributes of serde that change a key, and what to write in their place. Checks, reloads and `config --explain`
/// know a setting by the name of its field.
const REFUSED: [(&str, &str); 3] = [
    ("rename", "a setting has the name of its field: rename the field; a keyword is written `r#type`"),
    ("rename_all", "a setting has the name of its field: name the fields as the configuration names them"),
    ("flatten", "a section has the name of its field: write #[setting(section)] in the place of `flatten`"),
];

/// The attribute `#[setting(…)]` of one field.
#[derive(Default)]
struct SettingAttribute {
    min: Option<LitStr>,
    max: Option<LitStr>,
    zero: bool,
    restart: bool,
    section: bool,
}

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream, Error> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "ConfigSection is derived for structs: one field per setting"));
    };
    let fields = match &data.fields {
        Fields::Named(named) => named.named.iter().collect(),
        Fields::Unit => Vec::new(),
        Fields::Unnamed(unnamed) => {
            return Err(Error::new_spanned(unnamed, "a setting needs a name: use a struct with named fields"));
        }
    };
    refuse_other_keys(&input.attrs)?;
    let settings = fields.into_iter().map(setting).collect::<Result<Vec<_>, _>>()?;
    let (section, (generics, arguments, conditions)) = (&input.ident, input.generics.split_for_impl());
    Ok(quote! {
        impl #generics ::vestibule::config::ConfigSection for #section #arguments #conditions {
            fn settings(&self) -> ::std::vec::Vec<::vestibule::config::Setting> {
                let mut settings = ::std::vec::Vec::new();
                #(#settings)*
                settings
            }
        }
    })
}

/// Returns the statement that adds a field's setting, or those of its section.
fn setting(field: &Field) -> Result<TokenStream, Error> {
    let ident = field.ident.as_ref().expect("the fields are named");
    let key = ident.unraw().to_string();
    refuse_other_keys(&field.attrs)?;
    let attribute = SettingAttribute::of(field)?;
    let sentence = first_sentence(&comment(field));
    if attribute.section {
        if attribute.has_setting() {
            return Err(Error::new_spanned(
                ident,
                "#[setting(section)] stands alone: write min, max, zero and restart at the fields of the section's type",
            ));
        }
        return Ok(quote_spanned! {field.ty.span()=>
            settings.extend(::vestibule::config::Setting::of_section(#key, &self.#ident));
        });
    }
    if sentence.is_empty() {
        return Err(Error::new_spanned(
            ident,
            "describe the setting in a comment: `config --explain` prints its first sentence",
        ));
    }
    let mut made = match (&attribute.min, &attribute.max) {
        (Some(min), Some(max)) => quote_spanned! {field.ty.span()=>
            ::vestibule::config::Setting::bounded(#key, #sentence, &self.#ident, #min, #max)
        },
        (None, None) => quote_spanned! {field.ty.span()=>
            ::vestibule::config::Setting::unbounded(#key, #sentence, &self.#ident)
        },
        _ => return Err(Error::new_spanned(ident, "give both bounds: #[setting(min = …, max = …)]")),
    };
    if attribute.zero {
        made = quote!(#made.or_zero(&self.#ident));
    }
    if attribute.restart {
        made = quote!(#made.needs_restart());
    }
    Ok(quote!(settings.push(#made);))
}

impl SettingAttribute {
    fn of(field: &Field) -> Result<Self, Error> {
        let mut attribute = Self::default();
        for outer in field.attrs.iter().filter(|outer| outer.path().is_ident("setting")) {
            outer.parse_nested_meta(|meta| {
                if meta.path.is_ident("min") {
                    attribute.min = Some(bound(&meta.value()?.parse()?)?);
                } else if meta.path.is_ident("max") {
                    attribute.max = Some(bound(&meta.value()?.parse()?)?);
                } else if meta.path.is_ident("zero") {
                    attribute.zero = true;
                } else if meta.path.is_ident("restart") {
                    attribute.restart = true;
                } else if meta.path.is_ident("section") {
                    attribute.section = true;
                } else {
                    return Err(meta.error("expected min, max, zero, restart or section"));
                }
                Ok(())
            })?;
        }
        Ok(attribute)
    }

    /// Says if a part of it is about one value.
    fn has_setting(&self) -> bool {
        self.min.is_some() || self.max.is_some() || self.zero || self.restart
    }
}

/// Refuses attributes of serde with which a key is not the name of its field.
fn refuse_other_keys(attributes: &[Attribute]) -> Result<(), Error> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        // serde's own derive reports what cannot be parsed.
        let parts = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default();
        for part in parts {
            if let Some((_, remedy)) = REFUSED.iter().find(|(name, _)| part.path().is_ident(name)) {
                return Err(Error::new_spanned(part, remedy));
            }
        }
    }
    Ok(())
}

/// Returns a bound as the configuration writes it.
fn bound(literal: &Lit) -> Result<LitStr, Error> {
    match literal {
        Lit::Str(text) => Ok(text.clone()),
        Lit::Int(number) => Ok(LitStr::new(number.base10_digits(), number.span())),
        Lit::Float(number) => Ok(LitStr::new(number.base10_digits(), number.span())),
        other => Err(Error::new_spanned(other, "give a number, or a text such as \"30s\" or \"1 MiB\"")),
    }
}

/// Returns the comment of a field.
fn comment(field: &Field) -> String {
    let mut text = String::new();
    for attribute in &field.attrs {
        let Meta::NameValue(pair) = &attribute.meta else { continue };
        let Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) = &pair.value else { continue };
        if pair.path.is_ident("doc") {
            text.push_str(line.value().trim());
            text.push(' ');
        }
    }
    text.trim().to_owned()
}

fn first_sentence(comment: &str) -> String {
    match comment.split_once(". ") {
        Some((sentence, _)) => format!("{sentence}."),
        None => comment.to_owned(),
    }
}
