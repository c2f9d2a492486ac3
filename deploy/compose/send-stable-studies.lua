-- Forward the endoscopy series of every study that has become stable to the node.
--
-- The node's own results come back into the same study and make it stable once more. They are of modality OT, so they
-- are not forwarded; the endoscopy series is, and the node knows every object of it: nothing is read twice.

function OnStableStudy(studyId, tags, metadata)
  local study = ParseJson(RestApiGet("/studies/" .. studyId))
  local found = {}
  for _, seriesId in ipairs(study["Series"]) do
    local series = ParseJson(RestApiGet("/series/" .. seriesId))
    if series["MainDicomTags"]["Modality"] == "ES" then
      table.insert(found, '"' .. seriesId .. '"')
    end
  end
  if #found > 0 then
    local body = '{"Synchronous": false, "Resources": [' .. table.concat(found, ", ") .. "]}"
    RestApiPost("/modalities/endonode/store", body)
  end
end
