//! Entity tags: `"version"`, alone or in the lists of `If-Match` and `If-None-Match`.

use scatter_core::types::Version;

/// One member of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tag {
    /// `"7"`: a version.
    Strong(Version),
    /// `W/"7"`: a version, weakly.
    Weak(Version),
    /// Well formed, but never given out by this system: it matches nothing.
    Foreign,
}

/// What `If-Match` or `If-None-Match` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Tags {
    /// `*`
    Any,
    /// A list with at least one member.
    List(Vec<Tag>),
}

/// Most tags in one list.
const MAX_TAGS: usize = 64;

/// Not a list of entity tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum TagError {
    #[error("is not `*` or a list of entity tags, each in double quotes such as \"42\"")]
    Malformed,
    #[error("has more than {MAX_TAGS} entity tags")]
    TooMany,
}

impl Tags {
    /// Reads the value of one header line.
    pub(crate) fn parse(value: &[u8]) -> Result<Self, TagError> {
        let value = value.trim_ascii();
        if value == b"*" {
            return Ok(Self::Any);
        }
        let mut tags = Vec::with_capacity(1);
        let mut rest = value;
        loop {
            let (tag, after) = tag(rest)?;
            if tags.len() == MAX_TAGS {
                return Err(TagError::TooMany);
            }
            tags.push(tag);
            match after.trim_ascii_start() {
                [] => return Ok(Self::List(tags)),
                // Empty members of a list mean nothing.
                [b',', more @ ..] => {
                    rest = more;
                    while let [b',' | b' ' | b'\t', more @ ..] = rest {
                        rest = more;
                    }
                    if rest.is_empty() {
                        return Ok(Self::List(tags));
                    }
                }
                _ => return Err(TagError::Malformed),
            }
        }
    }

    /// Joins two header lines of the same name, which mean one list.
    pub(crate) fn join(self, other: Self) -> Result<Self, TagError> {
        match (self, other) {
            (Self::List(mut one), Self::List(other)) if one.len() + other.len() <= MAX_TAGS => {
                one.extend(other);
                Ok(Self::List(one))
            }
            (Self::List(_), Self::List(_)) => Err(TagError::TooMany),
            // `*` stands alone.
            (Self::Any, _) | (_, Self::Any) => Err(TagError::Malformed),
        }
    }

    /// Whether a value of this version is meant, weak tags included: for `If-None-Match`.
    pub(crate) fn matches_weakly(&self, version: Version) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(|tag| matches!(tag, Tag::Strong(it) | Tag::Weak(it) if *it == version)),
        }
    }

    /// Whether a value of this version is meant, weak tags never: for `If-Match`.
    pub(crate) fn matches_strongly(&self, version: Version) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.contains(&Tag::Strong(version)),
        }
    }
}

/// Reads one tag and returns what comes after it.
fn tag(text: &[u8]) -> Result<(Tag, &[u8]), TagError> {
    let (weak, text) = match text {
        [b'W', b'/', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let [b'"', rest @ ..] = text else { return Err(TagError::Malformed) };
    let end = rest.iter().position(|byte| *byte == b'"').ok_or(TagError::Malformed)?;
    let (inner, after) = (&rest[..end], &rest[end + 1..]);
    if inner.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err(TagError::Malformed);
    }
    let tag = match version(inner) {
        None => Tag::Foreign,
        Some(version) if weak => Tag::Weak(version),
        Some(version) => Tag::Strong(version),
    };
    Ok((tag, after))
}

/// A version exactly as [`write`] writes it: no sign, no leading zero.
fn version(digits: &[u8]) -> Option<Version> {
    if !digits.iter().all(u8::is_ascii_digit) || (digits.len() > 1 && digits[0] == b'0') {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().map(Version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(tags: &[Tag]) -> Result<Tags, TagError> {
        Ok(Tags::List(tags.to_vec()))
    }

    #[test]
    fn lists_are_read() {
        let (one, two) = (Tag::Strong(Version(1)), Tag::Weak(Version(2)));
        assert_eq!(Tags::parse(b"*"), Ok(Tags::Any));
        assert_eq!(Tags::parse(b" \"1\" "), list(&[one]));
        assert_eq!(Tags::parse(b"\"1\",W/\"2\""), list(&[one, two]));
        assert_eq!(Tags::parse(b"\"1\" , ,\tW/\"2\", "), list(&[one, two]));
        for foreign in ["\"\"", "\"abc\"", "\"01\"", "\"+1\"", "\"18446744073709551616\"", "W/\"x,y\""] {
            assert_eq!(Tags::parse(foreign.as_bytes()), list(&[Tag::Foreign]), "{foreign}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in
            ["", ",", "1", "\"1", "1\"", "'1'", "\"1\"\"2\"", "\"1\" \"2\"", "w/\"1\"", "W/1", "*, \"1\"", "\"a b\""]
        {
            assert_eq!(Tags::parse(text.as_bytes()), Err(TagError::Malformed), "{text}");
        }
        let many = vec!["\"1\""; MAX_TAGS + 1].join(",");
        assert_eq!(Tags::parse(many.as_bytes()), Err(TagError::TooMany));
    }

    #[test]
    fn weak_tags_match_only_weakly() {
        let tags = Tags::parse(b"\"1\", W/\"2\", \"x\"").expect("tags");
        let both = |version| (tags.matches_strongly(Version(version)), tags.matches_weakly(Version(version)));
        assert_eq!((both(1), both(2), both(3)), ((true, true), (false, true), (false, false)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Tags::parse(&bytes);
        }
    }
}
