//! `#[derive(Event)]`: an enum whose variants are event types.
//!
//! The documentation for users is on `annals_projection::Event`, which this implements.
//!
//! # Invariants
//! - A mistake is an error at the place in the source where it stands, and says what to write instead.
//! - How a variant is written and read is serde's business alone: this says only which event type it is, and which tags
//!   it has.

use proc_macro::TokenStream;
use proc_macro2::{Span, TokenStream as Tokens};
use quote::{format_ident, quote, quote_spanned};
use syn::{
    Data, DataEnum, DeriveInput, Error, Fields, LitInt, LitStr, Path, Result, Variant, parse_macro_input,
    spanned::Spanned,
};

/// Makes an enum the events of a category. See `annals_projection::Event`.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// What `#[event(…)]` on the enum says.
#[derive(Default)]
struct EnumSays {
    category: Option<LitStr>,
    prefix: Option<LitStr>,
    codec: Option<Path>,
    upcasts: Option<Path>,
    ignore: Vec<LitStr>,
    ignore_unknown: bool,
    krate: Option<Path>,
}

/// What `#[event(…)]` on a variant says.
struct VariantSays {
    name: LitStr,
    version: u32,
}

/// A field that becomes a tag.
struct Tag {
    /// How the variant's pattern names it.
    binding: syn::Ident,
    /// Its place in the variant.
    member: syn::Member,
    name: String,
    /// Its type in the source.
    of: Span,
}

fn expand(input: &DeriveInput) -> Result<Tokens> {
    let Data::Enum(data) = &input.data else {
        return Err(Error::new_spanned(
            &input.ident,
            "Event can be derived for an enum, of which each variant is an event type",
        ));
    };
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &input.generics,
            "an event enum cannot be generic: what is stored has one shape",
        ));
    }
    if data.variants.is_empty() {
        return Err(Error::new_spanned(&input.ident, "an event enum needs at least one variant"));
    }
    refuse_serde_representations(input)?;
    let says = enum_says(input)?;
    let mut errors: Option<Error> = None;
    let mut note = |e: Error| match &mut errors {
        Some(all) => all.combine(e),
        none => *none = Some(e),
    };
    let mut types = Vec::new();
    let mut names: Vec<(String, Span)> = Vec::new();
    let mut tag_arms = Vec::new();
    let mut index_arms = Vec::new();
    for (index, variant) in data.variants.iter().enumerate() {
        let index = index as u32;
        let ident = &variant.ident;
        match variant_says(variant, says.prefix.as_ref()) {
            Ok(VariantSays { name, version }) => {
                if let Some((other, _)) = names.iter().find(|(other, _)| *other == name.value()) {
                    note(Error::new(name.span(), format!("two variants are the event type `{other}`")));
                }
                names.push((name.value(), name.span()));
                types.push(quote!(EventType { name: #name, schema_version: #version, variant: #index }));
            }
            Err(e) => note(e),
        }
        index_arms.push(quote!(Self::#ident { .. } => #index,));
        match tags_of(variant) {
            Ok(tags) if tags.is_empty() => {}
            Ok(tags) => {
                let members = tags.iter().map(|t| &t.member);
                let bindings: Vec<_> = tags.iter().map(|t| &t.binding).collect();
                // What has no tag value is told at the field.
                let each = tags.iter().map(|Tag { binding, name, of, .. }| {
                    quote_spanned!(*of=> TagValue::each(#binding, &mut |value| tag(#name, value));)
                });
                tag_arms.push(quote! {
                    Self::#ident { #(#members: #bindings,)* .. } => { #(#each)* }
                });
            }
            Err(e) => note(e),
        }
    }
    if let Some(e) = errors {
        return Err(e);
    }
    Ok(implementation(input, data, &says, &types, &index_arms, &tag_arms))
}

fn implementation(
    input: &DeriveInput,
    data: &DataEnum,
    says: &EnumSays,
    types: &[Tokens],
    index_arms: &[Tokens],
    tag_arms: &[Tokens],
) -> Tokens {
    let ident = &input.ident;
    let krate = match &says.krate {
        Some(path) => quote!(#path),
        None => quote!(::annals),
    };
    let codec = match &says.codec {
        Some(path) => quote!(#path),
        None => quote!(__annals::Json),
    };
    let category = says.category.as_ref().map_or_else(String::new, LitStr::value);
    let ignore = &says.ignore;
    let ignored =
        if says.ignore_unknown { quote!(Ignored::Unknown) } else { quote!(Ignored::Types(&[#(#ignore),*])) };
    let upcasts = match &says.upcasts {
        Some(path) => quote!(#path()),
        None => quote!(Upcasts::new()),
    };
    let rest = if tag_arms.len() < data.variants.len() { quote!(_ => {}) } else { quote!() };
    let tags = if tag_arms.is_empty() {
        quote!(
            fn tags(&self, _tag: &mut dyn FnMut(&str, &dyn ::core::fmt::Display)) {}
        )
    } else {
        quote! {
            fn tags(&self, tag: &mut dyn FnMut(&str, &dyn ::core::fmt::Display)) {
                match self {
                    #(#tag_arms)*
                    #rest
                }
            }
        }
    };
    quote! {
        const _: () = {
            use #krate::__derive as __annals;
            #[allow(unused_imports)]
            use __annals::{EventType, Ignored, TagValue, Upcasts};

            #[automatically_derived]
            impl __annals::Event for #ident {
                type Codec = #codec;
                const CATEGORY: &'static str = #category;
                const TYPES: &'static [EventType] = &[#(#types),*];
                const IGNORED: Ignored = #ignored;

                fn variant(&self) -> u32 {
                    match self {
                        #(#index_arms)*
                    }
                }

                #tags

                fn upcasts() -> &'static Upcasts {
                    static UPCASTS: ::std::sync::OnceLock<Upcasts> = ::std::sync::OnceLock::new();
                    UPCASTS.get_or_init(|| #upcasts)
                }
            }
        };
    }
}

fn enum_says(input: &DeriveInput) -> Result<EnumSays> {
    let mut says = EnumSays::default();
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("event")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("category") {
                let category: LitStr = meta.value()?.parse()?;
                let text = category.value();
                if text.is_empty() || text.contains('-') || text.chars().any(char::is_control) {
                    return Err(Error::new(
                        category.span(),
                        "a category is text without `-`: a stream's name is its category, `-` and an id",
                    ));
                }
                once(&mut says.category, category, &meta.path)
            } else if meta.path.is_ident("prefix") {
                let prefix: LitStr = meta.value()?.parse()?;
                if prefix.value().chars().any(char::is_control) {
                    return Err(Error::new(prefix.span(), "an event type is printable text"));
                }
                once(&mut says.prefix, prefix, &meta.path)
            } else if meta.path.is_ident("codec") {
                once(&mut says.codec, meta.value()?.parse()?, &meta.path)
            } else if meta.path.is_ident("upcasts") {
                once(&mut says.upcasts, meta.value()?.parse()?, &meta.path)
            } else if meta.path.is_ident("crate") {
                once(&mut says.krate, meta.value()?.parse()?, &meta.path)
            } else if meta.path.is_ident("ignore_unknown") {
                says.ignore_unknown = true;
                Ok(())
            } else if meta.path.is_ident("ignore") {
                let list;
                syn::parenthesized!(list in meta.input);
                let names = list.parse_terminated(<LitStr as syn::parse::Parse>::parse, syn::Token![,])?;
                says.ignore.extend(names);
                Ok(())
            } else {
                Err(meta.error(
                    "of an event enum can be said: `category = \"…\"`, `prefix = \"…\"`, `codec = Type`, \
                     `upcasts = function`, `ignore(\"Type\", …)`, `ignore_unknown`, `crate = path`",
                ))
            }
        })?;
    }
    if says.category.is_none() {
        return Err(Error::new_spanned(
            &input.ident,
            "the category is missing: write `#[event(category = \"order\")]` above the enum",
        ));
    }
    Ok(says)
}

fn variant_says(variant: &Variant, prefix: Option<&LitStr>) -> Result<VariantSays> {
    let (mut name, mut version) = (None, None);
    for attribute in variant.attrs.iter().filter(|a| a.path().is_ident("event")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("name") {
                let text: LitStr = meta.value()?.parse()?;
                if text.value().is_empty() || text.value().chars().any(char::is_control) {
                    return Err(Error::new(text.span(), "an event type is printable text"));
                }
                once(&mut name, text, &meta.path)
            } else if meta.path.is_ident("version") {
                let number: LitInt = meta.value()?.parse()?;
                match number.base10_parse::<u32>() {
                    Ok(1..) => once(&mut version, number.base10_parse()?, &meta.path),
                    _ => Err(Error::new(number.span(), "schema versions are counted from 1")),
                }
            } else if meta.path.is_ident("tag") {
                Err(meta.error("`tag` stands on a field: its value becomes the tag `field:value`"))
            } else {
                Err(meta.error("of a variant can be said: `name = \"…\"`, `version = 2`"))
            }
        })?;
    }
    let prefixed = || format!("{}{}", prefix.map_or_else(String::new, LitStr::value), variant.ident);
    let name = name.unwrap_or_else(|| LitStr::new(&prefixed(), variant.ident.span()));
    Ok(VariantSays { name, version: version.unwrap_or(1) })
}

fn tags_of(variant: &Variant) -> Result<Vec<Tag>> {
    let mut tags = Vec::new();
    for (at, field) in variant.fields.iter().enumerate() {
        let mut tagged = None;
        for attribute in field.attrs.iter().filter(|a| a.path().is_ident("event")) {
            attribute.parse_nested_meta(|meta| {
                if !meta.path.is_ident("tag") {
                    return Err(meta.error("of a field can be said: `tag`, `tag = \"name\"`"));
                }
                let name = if meta.input.peek(syn::Token![=]) {
                    let name: LitStr = meta.value()?.parse()?;
                    if name.value().is_empty() || name.value().contains(':') {
                        return Err(Error::new(name.span(), "a tag's name is text without `:`"));
                    }
                    name.value()
                } else {
                    match &field.ident {
                        Some(ident) => ident.to_string().trim_start_matches("r#").to_owned(),
                        None => {
                            return Err(meta.error(
                                "a field without a name needs one for its tag: `#[event(tag = \"customer\")]`",
                            ));
                        }
                    }
                };
                once(&mut tagged, name, &meta.path)
            })?;
        }
        if let Some(name) = tagged {
            let member = match (&variant.fields, &field.ident) {
                (Fields::Named(_), Some(ident)) => syn::Member::Named(ident.clone()),
                _ => syn::Member::Unnamed(syn::Index { index: at as u32, span: field.span() }),
            };
            tags.push(Tag { binding: format_ident!("field_{at}"), member, name, of: field.ty.span() });
        }
    }
    Ok(tags)
}

/// Events are written without their variant's name, which the event type says: that needs serde's own representation.
fn refuse_serde_representations(input: &DeriveInput) -> Result<()> {
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            if ["tag", "content", "untagged"].iter().any(|name| meta.path.is_ident(name)) {
                return Err(meta.error(
                    "an event enum keeps serde's representation: the event type says which variant it is",
                ));
            }
            // Whatever else it is, it is serde's.
            if meta.input.peek(syn::Token![=]) {
                let _: syn::Expr = meta.value()?.parse()?;
            } else if meta.input.peek(syn::token::Paren) {
                let list;
                syn::parenthesized!(list in meta.input);
                let _: Tokens = list.parse()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn once<T>(place: &mut Option<T>, value: T, what: &Path) -> Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::new_spanned(what, "this is said twice")),
    }
}
